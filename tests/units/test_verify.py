"""The proof accepts right groups, names what is wrong with wrong ones, and leaves the model as it was."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import Slot, Tap, UnitGroup, UnitMap, verify_units


class Network(nn.Module):
    """``x -> first -> norm -> relu -> second (+ third)``: two readers, a norm, dropout, and a frozen path beside it."""

    def __init__(self, norm: nn.Module | None = None, activation=torch.relu) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6) if norm is None else norm
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Linear(6, 5)
        self.third = nn.Linear(6, 3)
        self.beside = nn.Linear(4, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.norm(self.first(x))))
        return torch.cat([self.second(hidden) + self.beside(x), self.third(hidden)], dim=-1)


def slot(model: nn.Module, path: str, dim: int = 0, features: Tensor | None = None, kind: str = "weight") -> Slot:
    module_name, _, name = path.rpartition(".")
    module = model.get_submodule(module_name)
    index = torch.arange(getattr(module, name).shape[dim])[:, None] if features is None else features
    return Slot(module, name, path, (dim,), (index,), kind=kind)


def group_of(model: Network, coupled: bool = False) -> UnitGroup:
    return UnitGroup(
        "first",
        6,
        (slot(model, "first.weight"), slot(model, "first.bias", kind="bias")),
        tuple(
            slot(model, f"norm.{name}", kind=kind)
            for name, kind in [
                ("weight", "scale"),
                ("bias", "shift"),
                ("running_mean", "mean"),
                ("running_var", "variance"),
            ]
            if name in model.norm.state_dict()
        ),
        (slot(model, "second.weight", 1), slot(model, "third.weight", 1)),
        Tap(model.second, "second", "input", 0, -1, torch.arange(6)[:, None]),
        coupled,
    )


def prove(model: nn.Module, *groups: UnitGroup, x: Tensor | None = None, **options):
    example = torch.randn(8, 4) if x is None else x
    return verify_units(model, example, UnitMap(model, groups), **options)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_right_units_are_proven_in_both_modes() -> None:
    model = Network()
    (proof,) = prove(model, group_of(model))
    assert proof.proven
    assert proof.problems == []
    assert proof.modes == ("evaluation", "training")
    assert (proof.exclusive, proof.tapped, proof.interchangeable) == (True, True, True)


def test_a_forgotten_reader_breaks_independence() -> None:
    model = Network()
    right = group_of(model)
    proofs = prove(model, replace(right, outgoing=right.outgoing[:1]))
    assert [proof.group for proof in proofs.failed] == ["first"]
    assert not proofs["first"].independent
    assert "though nothing reads them" in proofs["first"].problems[0]


def test_a_reader_too_many_is_not_needed() -> None:
    model = Network()
    right = group_of(model)
    foreign = slot(model, "beside.weight", 0, torch.tensor([0, 1, 2, 3, 4, 0])[:, None])
    proof = prove(model, replace(right, outgoing=(*right.outgoing, foreign)))["first"]
    assert proof.independent
    assert not proof.minimal
    assert any("beside.weight does not read the units" in problem for problem in proof.problems)
    assert proof.exclusive is False  # setting it to zero removes more than the unit


def test_columns_that_also_hold_other_entries_are_not_exclusive() -> None:
    model = Network()
    right = group_of(model)
    wide = replace(right.outgoing[0], index=(torch.stack([torch.arange(6), torch.arange(6).roll(1)], dim=1),))
    proof = prove(model, replace(right, outgoing=(wide, right.outgoing[1])))["first"]
    assert proof.exclusive is False
    assert "second.weight: an entry belongs to two units" in proof.problems


def test_columns_of_another_unit_break_independence() -> None:
    model = Network()
    right = group_of(model)
    shifted = replace(right.outgoing[0], index=(torch.arange(6).roll(1)[:, None],))
    assert not prove(model, replace(right, outgoing=(shifted, right.outgoing[1])))["first"].independent


def test_incoming_slots_that_reach_others_break_independence() -> None:
    model = Network()
    right = group_of(model)
    foreign = slot(model, "second.bias", 0, torch.tensor([0, 1, 2, 3, 4, 0])[:, None], kind="bias")
    assert not prove(model, replace(right, incoming=(*right.incoming, foreign)))["first"].independent


def test_a_forgotten_bias_shows_when_units_are_exchanged() -> None:
    model = Network()
    right = group_of(model)
    proof = prove(model, replace(right, incoming=right.incoming[:1]))["first"]
    assert proof.proven  # it is a unit, though not all of it
    assert proof.interchangeable is None


def test_units_that_do_not_matter_are_not_sensitive() -> None:
    class Idle(Network):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x)) * 0.0
            return self.second(hidden) + self.beside(x)

    model = Idle(nn.Identity())
    right = group_of(model)
    proof = prove(model, replace(right, outgoing=right.outgoing[:1]))["first"]
    assert not proof.sensitive
    assert any("do not change the output" in problem for problem in proof.problems)


def test_a_tap_at_the_wrong_features_is_found() -> None:
    model = Network()
    right = group_of(model)
    wrong = replace(right.tap, index=torch.arange(6).roll(1)[:, None])
    assert prove(model, replace(right, tap=wrong))["first"].tapped is False


def test_a_tap_that_sees_nothing_of_the_units_is_found() -> None:
    model = Network()
    wrong = Tap(model.beside, "beside", "output", 0, -1, torch.tensor([0, 1, 2, 3, 4, 0])[:, None])
    assert prove(model, replace(group_of(model), tap=wrong))["first"].tapped is False


def test_without_a_tap_nothing_is_said_about_it() -> None:
    model = Network()
    proof = prove(model, replace(group_of(model), tap=None))["first"]
    assert proof.tapped is None
    assert proof.proven


@pytest.mark.parametrize("activation", [torch.sigmoid, F.softplus, F.gelu, torch.tanh, lambda x: 1 + torch.relu(x)])
def test_activations_without_a_zero_at_zero_do_not_refute_a_right_group(activation) -> None:
    model = Network(activation=activation)
    proof = prove(model, group_of(model))["first"]
    assert proof.proven
    assert proof.exclusive is not False


def test_units_that_are_never_silent_are_exclusive_if_the_tap_shows_a_constant() -> None:
    model = Network(activation=torch.cos)
    assert prove(model, group_of(model))["first"].proven
    (proof,) = prove(model, replace(group_of(model), tap=None))
    assert proof.exclusive is None
    assert not proof.proven


def test_columns_that_also_read_what_is_no_unit_are_not_exclusive() -> None:
    class Mixed(Network):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x)) + F.pad(x, (0, 2))
            return torch.cat([self.second(hidden), self.third(hidden)], dim=-1)

    model = Mixed(nn.Identity())
    (proof,) = prove(model, group_of(model))
    assert proof.independent
    assert proof.exclusive is False


class RMSNormByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LayerNormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer norm": lambda: nn.LayerNorm(6),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "rms norm": lambda: nn.RMSNorm(6),
    "rms norm by hand": RMSNormByHand,
    "layer norm by hand": LayerNormByHand,
}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_units_in_a_mixing_norm_are_independent_only_with_its_statistics_held(make) -> None:
    model = Network(make())
    assert not prove(model, group_of(model))["first"].independent
    assert prove(model, group_of(model, coupled=True))["first"].proven


def test_a_forgotten_reader_breaks_independence_of_coupled_units_too() -> None:
    model = Network(nn.LayerNorm(6))
    right = group_of(model, coupled=True)
    assert not prove(model, replace(right, outgoing=right.outgoing[1:]))["first"].independent


def test_zero_initialised_readers_hide_nothing() -> None:
    model = Network()
    nn.init.zeros_(model.second.weight)
    nn.init.zeros_(model.third.weight)
    assert prove(model, group_of(model))["first"].proven


def test_one_wrong_group_does_not_spoil_the_others() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = [
        UnitGroup(i, 6, (slot(model, f"{i}.weight"), slot(model, f"{i}.bias", kind="bias")), (), (out,), None)
        for i, out in [("0", slot(model, "2.weight", 1)), ("2", slot(model, "4.weight", 1))]
    ]
    groups[1] = replace(groups[1], outgoing=(slot(model, "4.weight", 1, torch.zeros(6, 1, dtype=torch.long)),))
    proofs = prove(model, *groups)
    assert [proof.group for proof in proofs.failed] == ["2"]


def test_one_unit_is_proven() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh(), nn.Linear(1, 2))
    group = UnitGroup("0", 1, (slot(model, "0.weight"),), (), (slot(model, "2.weight", 1),), None)
    (proof,) = prove(model, group)
    assert proof.proven
    assert proof.interchangeable is None


def test_a_batch_of_one_is_proven_in_evaluation_mode_only() -> None:
    model = Network()
    (proof,) = prove(model, group_of(model), x=torch.randn(1, 4))
    assert proof.proven
    assert proof.modes == ("evaluation",)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "callable"])
def test_every_form_of_example_inputs_is_taken(form) -> None:
    model, x = Network(), torch.randn(8, 4)
    example = {"tensor": x, "tuple": (x,), "dict": {"x": x}, "callable": lambda: {"loss": model(x).square().mean()}}[
        form
    ]
    assert verify_units(model, example, UnitMap(model, (group_of(model),)))["first"].proven


def test_half_precision_models_are_proven_in_double_precision() -> None:
    model = Network().bfloat16()
    (proof,) = prove(model, group_of(model), x=torch.randn(8, 4, dtype=torch.bfloat16))
    assert proof.proven
    assert model.first.weight.dtype == torch.bfloat16


def test_an_empty_map_has_no_proofs() -> None:
    model = Network()
    proofs = prove(model)
    assert len(proofs) == 0
    assert proofs.failed == ()


def test_the_summary_names_verdicts_and_problems() -> None:
    model = Network()
    right = group_of(model)
    text = prove(model, replace(right, outgoing=right.outgoing[:1])).summary()
    assert text.splitlines()[0].split()[:3] == ["group", "units", "independent"]
    assert text.splitlines()[1].split()[:3] == ["first", "6", "NO"]
    assert "first: units" in text


def snapshot(model: nn.Module):
    return (
        {
            name: (id(t), t.data_ptr(), t.dtype, t.requires_grad, t.detach().clone())
            for name, t in model.state_dict(keep_vars=True).items()
        },
        {name: parameter._version for name, parameter in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
            for name, m in model.named_modules()
        },
        (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        torch.backends.mha.get_fastpath_enabled(),
    )


def assert_equal(one, other) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert_equal(list(one), list(other))
        assert_equal(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for item, its_other in zip(one, other, strict=True):
            assert_equal(item, its_other)
    else:
        assert one == other


class Untidy(Network):
    """Remembers its last activation, replaces a buffer, draws from every generator, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.luck = [10**9]

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = x
        self.count = getattr(self, "count", 0) + 1
        self.luck[0] -= 1
        if self.luck[0] < 0:
            raise RuntimeError("out of luck")
        return super().forward(x) + random.gauss(0, 1) + np.random.rand() + torch.rand(())


def test_the_model_is_left_exactly_as_it_was() -> None:
    model = Untidy()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    before = snapshot(model)
    assert prove(model, group_of(model), x=torch.randn(8, 4, generator=torch.Generator()))["first"].proven
    assert_equal(snapshot(model), before)


@pytest.mark.parametrize(("luck", "error"), [(1, UnsupportedModelError), (15, RuntimeError)])
def test_the_model_is_left_exactly_as_it_was_after_an_error(luck, error) -> None:
    model = Untidy()
    model.luck = [luck]
    before = snapshot(model)
    with pytest.raises(error, match="out of luck"):
        prove(model, group_of(model), x=torch.ones(8, 4))
    assert_equal(snapshot(model), before)


def test_an_autograd_graph_from_before_can_still_be_used() -> None:
    model = Network()
    loss = model(torch.randn(8, 4)).sum()
    prove(model, group_of(model))
    loss.backward()
    assert model.first.weight.grad is not None


def test_weights_that_are_written_where_they_are_read_are_refuted() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = nn.Parameter(model[0].weight.data.t())  # another parameter on the same numbers
    group = UnitGroup("0", 3, (slot(model, "0.weight"),), (), (slot(model, "2.weight", 1),), None)
    (proof,) = prove(model, group, x=torch.randn(8, 3))
    assert proof.exclusive is False
    assert proof.problems == ["0.weight: its entries are read where they are written (tied weights)"]


def test_the_same_seed_gives_the_same_proof() -> None:
    model = Network()
    x = torch.randn(8, 4)
    right = group_of(model)
    wrong = UnitMap(model, (replace(right, outgoing=right.outgoing[:1]),))
    assert verify_units(model, x, wrong, seed=3) == verify_units(copy.copy(model), x, wrong, seed=3)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = Network()
    with pytest.raises(UnsupportedModelError, match=r"does not run on the example: RuntimeError.*Remedy: Pass as"):
        prove(model, group_of(model), x=torch.randn(8, 5))


def test_a_callable_that_returns_nothing_is_refused() -> None:
    model = Network()
    with pytest.raises(UnsupportedModelError, match=r"no tensor.*Return the output"):
        verify_units(model, lambda: None, UnitMap(model, (group_of(model),)))


def test_a_model_that_does_not_repeat_itself_is_refused() -> None:
    generator = torch.Generator()

    class Noisy(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(1, generator=generator)

    model = Noisy()
    with pytest.raises(UnsupportedModelError, match="two identical runs of the model differ"):
        prove(model, group_of(model))
