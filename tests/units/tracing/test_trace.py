"""A model is run once per mode under labels, and what leaves the labels behind is noticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import discover_units, verify_units
from lightning_plasticity.units.tracing import trace
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.frames import Frames


class Model(nn.Module):
    def __init__(self, leave) -> None:
        super().__init__()
        self.first, self.second, self.last, self.leave = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2), leave
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        type(self).seen.append(self.training)
        hidden = self.second(self.first(x).relu())
        return self.last(hidden.relu()) + self.leave(hidden)

    seen: list[bool] = []  # noqa: RUF012 - survives that the model is put back


@pytest.mark.parametrize(
    ("leave", "word"),
    [
        (lambda h: float(h.detach().numpy().sum()), "its values leave torch"),
        (lambda h: h.tolist()[0][0], "its values leave torch"),
        (lambda h: h.sum().item(), "its values steer the program"),
        (lambda h: 1.0 if h.sum() > 0 else 2.0, "its values steer the program"),
    ],
)
def test_units_whose_values_leave_torch_are_refused_and_those_before_them_are_not(leave, word):
    units = discover_units(Model(leave), torch.randn(3, 4))
    assert [group.name for group in units] == ["first"]
    assert word in {skip.layer: skip.reason for skip in units.skipped}["second"]


def test_a_single_unit_whose_value_leaves_torch_is_left_out_alone():
    units = discover_units(Model(lambda h: h[0, 0].item()), torch.randn(3, 4))
    assert units["second"].size == 4
    assert units["second"].incoming[0].index[0].flatten().tolist() == [1, 2, 3, 4]
    assert any(skip.reason.startswith("1 of 5 units: its values steer") for skip in units.skipped)


def test_the_model_runs_in_both_modes_and_no_more_than_needed():
    Model.seen.clear()
    discover_units(Model(lambda h: 0.0), torch.randn(3, 4))
    assert Model.seen == [False, True]


def test_nothing_is_recorded_for_autograd():
    model = Model(lambda h: 0.0)
    recorded = []
    model.last.register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    discover_units(model, torch.randn(3, 4))
    assert recorded == [False, False]


class Threaded(nn.Module):
    """Parts of a forward pass run in a worker."""

    def __init__(self, how) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 6), nn.ReLU()
        self.last, self.other, self.how = nn.Linear(6, 2), nn.Sequential(nn.Linear(6, 2)), how

    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as worker:
            return self.how(self, x, lambda *call: worker.submit(*call).result())


THREADS = {
    "a reader": (lambda m, x, run: m.last(h := m.first(x)) + run(m.other, h), "'other', 'other.0'"),
    "a writer": (lambda m, x, run: m.last(run(m.first, x)), "'first'"),
    "a function between": (lambda m, x, run: m.other(h := m.first(x)) + m.last(run(m.act, h)), "'act'"),
    "in training": (lambda m, x, run: run(m.last, m.first(x)) if m.training else m.last(m.first(x)), "'last'"),
}


@pytest.mark.parametrize("how", THREADS)
def test_layers_that_run_in_another_thread_are_refused_by_name(how):
    forward, names = THREADS[how]
    message = rf"layers that run in another thread: {names}\. Expected: .*Remedy: Run the model without its threads"
    with pytest.raises(UnsupportedModelError, match=message):
        discover_units(Threaded(forward), torch.randn(3, 4))


def test_a_model_that_runs_in_another_thread_as_a_whole_is_refused():
    model, x = Model(lambda h: 0.0), torch.randn(3, 4)
    with (
        ThreadPoolExecutor(1) as worker,
        pytest.raises(UnsupportedModelError, match="another thread: the model itself"),
    ):
        discover_units(model, lambda: worker.submit(model, x).result())


def test_units_may_be_looked_for_in_any_thread():
    model, x = Model(lambda h: 0.0), torch.randn(3, 4)
    with ThreadPoolExecutor(1) as worker:
        units = worker.submit(discover_units, model, x).result()
    assert [group.name for group in units] == ["first", "second"]


class Routed(nn.Module):
    """A layer of 8 units whose route tells which of two experts reads it; on the example, the second has no turn."""

    def __init__(self, route) -> None:
        super().__init__()
        self.first, self.route = nn.Linear(4, 8), route
        self.chosen, self.other = nn.Linear(8, 3), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.route(self, x, self.first(x).relu())


def by_mask(model, x, hidden):
    out = hidden.new_zeros(len(hidden), 3)
    for expert, mask in ((model.chosen, x[:, 0] > -100), (model.other, x[:, 0] <= -100)):
        out[mask] = expert(hidden[mask])
    return out


def by_mask_of_bytes(model, x, hidden):
    few = x[:, 0] <= -100
    return model.chosen(hidden) + (0 if len(x[few.byte()]) == 0 else model.other(hidden))


ROUTES = {
    "tolist": lambda m, x, h: torch.stack([(m.chosen, m.other)[i](h) for i in (x[:1, 0] < -100).int().tolist()]),
    "numpy": lambda m, x, h: m.other(h) if x.numpy().sum() < -1e4 else m.chosen(h),
    "array": lambda m, x, h: m.other(h) if np.asarray(x).sum() < -1e4 else m.chosen(h),
    "mask": by_mask,
    "mask of bytes": by_mask_of_bytes,
    "part of the batch": lambda m, x, h: torch.cat([m.chosen(h), m.other(h[:0])]),
    "a sum over nothing": lambda m, x, h: m.chosen(h) + m.other(h[x[:, 0] < -100]).sum(),
}


@pytest.mark.parametrize("route", ROUTES)
def test_units_are_uncertain_if_the_data_choose_who_reads_them(route):
    units = discover_units(Routed(ROUTES[route]), torch.randn(3, 4))
    assert len(units) == 0
    said = {skip.layer: (skip.reason, skip.remedy) for skip in units.skipped}
    assert "the model branches on its data, and other.1, which did not run on the example" in said["first"][0]
    assert said["first"][1] == "Pass a function that runs the model on examples of all kinds"
    assert "met no activation on the example" in said["other.1"][0]


@pytest.mark.parametrize("route", ["tolist", "mask"])
def test_units_are_certain_if_the_example_takes_every_branch(route):
    model, x = Routed(ROUTES[route]), torch.randn(3, 4)
    units = discover_units(model, lambda: [model(x), model(x - 200 * torch.eye(3, 1))])
    assert {slot.path for slot in units["first"].outgoing} == {"chosen.weight", "other.1.weight"}


BLIND = {
    "a constant mask": lambda m, x, h: m.chosen(h[torch.tensor([True, False, True])]),
    "an index": lambda m, x, h: m.chosen(h[x.argmax(0)]),
    "numbers that are no data": lambda m, x, h: m.chosen(h) * len(torch.arange(3).tolist()),
    "an address": lambda m, x, h: m.chosen(h) if x.data_ptr() else m.other(h),
}


@pytest.mark.parametrize("route", BLIND)
def test_an_idle_layer_makes_nothing_uncertain_if_nothing_depends_on_the_data(route):
    units = discover_units(Routed(BLIND[route]), torch.randn(3, 4))
    assert [group.name for group in units] == ["first"]
    assert "met no activation on the example" in {skip.layer: skip.reason for skip in units.skipped}["other.1"]


def test_a_layer_that_ran_on_no_sample_owns_and_reads_nothing():
    model = Routed(by_mask)
    model.other = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    units = discover_units(model, torch.randn(3, 4))
    assert {skip.layer for skip in units.skipped if "met no activation" in skip.reason} == {"other.1", "other.3"}
    assert len(units) == 0


class Catches(nn.Sequential):
    """Goes on if a layer fails."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except ZeroDivisionError:
            return x


def broken(*args, **kwargs):
    raise ZeroDivisionError("a bug of ours")


FOLLOWERS = [(trace, "observe"), (Frames, "_enter"), (trace, "_asked_for_values")]


@pytest.mark.parametrize("container", [nn.Sequential, Catches])
@pytest.mark.parametrize(("where", "name"), FOLLOWERS)
def test_an_error_of_those_who_follow_the_model_is_not_blamed_on_the_example(monkeypatch, container, where, name):
    model = container(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        discover_units(model, torch.randn(3, 4))


def test_an_error_when_values_leave_torch_is_not_blamed_on_the_example(monkeypatch):
    monkeypatch.setattr(Execution, "spoil", broken)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        discover_units(Model(lambda h: h.tolist()[0][0]), torch.randn(3, 4))


def test_the_same_error_of_the_model_itself_is():
    with pytest.raises(UnsupportedModelError, match=r"in evaluation mode.*ZeroDivisionError"):
        discover_units(Model(broken), torch.randn(3, 4))


def test_what_follows_the_model_refuses_a_layout_in_its_own_words():
    model = Model(lambda h: h.to_sparse().mul_(2).to_dense().sum(-1, keepdim=True))
    with pytest.raises(UnsupportedModelError, match=r"^Found: a tensor of layout torch.sparse_coo"):
        discover_units(model, torch.randn(3, 4))


class FrozenEncoder(nn.Module):
    """An encoder that runs in inference mode, where operations arrive as the user has written them, and a head."""

    def __init__(self, *, encodes: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.LayerNorm(6), nn.Linear(6, 5))
        self.head = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.1), nn.ReLU(), nn.Linear(7, 2))
        self.encodes = encodes

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode() if self.encodes else nullcontext():
            features = self.encoder(x)
        return self.head(features.clone())


@pytest.mark.parametrize("inside", [True, False])
def test_what_runs_in_inference_mode_is_followed_like_all_else(inside):
    model, x = FrozenEncoder(encodes=inside), torch.randn(3, 4)
    with nullcontext() if inside else torch.inference_mode():
        example = x.clone()
    units, plain = discover_units(model, example), discover_units(FrozenEncoder(encodes=False), x)
    assert [(g.name, g.size, g.coupled) for g in units] == [(g.name, g.size, g.coupled) for g in plain]
    assert len(units) == 3
    assert units.skipped == plain.skipped
    assert all(proof.proven for proof in verify_units(model, x, units))


class Stochastic(nn.Module):
    """Draws hidden units from a distribution, which looks at its arguments; a layer does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale, self.last, self.spare = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(Normal(self.mean(x), self.scale(x).exp()).rsample())


@pytest.mark.parametrize("checked", [True, False])  # torch.compile turns the checks off
def test_that_a_distribution_checks_its_arguments_is_no_branch_of_the_model(checked, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", checked)
    unit_map = discover_units(Stochastic(), torch.randn(6, 4))
    assert [group.name for group in unit_map] == ["mean"]
    with pytest.raises(ValueError, match="constraint") if checked else nullcontext():
        Normal(torch.zeros(1), -torch.ones(1))


@pytest.mark.parametrize("checked", [True, False])
def test_distributions_check_their_arguments_again_after_a_model_has_failed(checked, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", checked)
    with pytest.raises(UnsupportedModelError):
        discover_units(Stochastic(), torch.randn(6, 5))
    with pytest.raises(ValueError, match="constraint") if checked else nullcontext():
        Normal(torch.zeros(1), -torch.ones(1))
