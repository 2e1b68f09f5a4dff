"""Statistics that a model keeps by itself belong to units, but nobody knows what they should be for new ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units, verify_units


class Norm(nn.Module):
    """A batch norm written by hand."""

    def __init__(self, update, normalise=lambda m, x, mean, var: (x - mean) / torch.sqrt(var + 1e-5)) -> None:
        super().__init__()
        self.update, self.normalise = update, normalise
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("steps", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.update(self, mean, var)
                self.steps += 1
        return self.normalise(self, x, mean, var) * self.scale + self.shift


def by_lerp(m, mean, var):
    m.mean.lerp_(mean, 0.1)
    m.var.lerp_(var, 0.1)


def in_place(m, mean, var):
    m.mean.mul_(0.9).add_(0.1 * mean)
    m.var.mul_(0.9).add_(0.1 * var)


def by_copy(m, mean, var):
    m.mean.copy_(0.9 * m.mean + 0.1 * mean)
    m.var.data[:] = 0.9 * m.var + 0.1 * var


def by_binding(m, mean, var):
    m.mean, m.var = 0.9 * m.mean + 0.1 * mean, torch.lerp(m.var, var, 0.1)


UPDATES = {update.__name__: update for update in (by_lerp, in_place, by_copy, by_binding)}
NORMALISATIONS = {
    "directly": ("mean", lambda m, x, mean, var: (x - mean) / torch.sqrt(var + 1e-5)),
    "by the variance only": ("var", lambda m, x, mean, var: x * (var.to(torch.float64) + 1e-5).rsqrt().float()[None]),
    "folded": ("var", lambda m, x, mean, var: x * (m.scale * (var + 1e-5).rsqrt())),
}


def around(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("way", NORMALISATIONS)
def test_units_are_left_out_if_the_model_updates_what_it_normalises_them_by(update, way):
    name, normalise = NORMALISATIONS[way]
    units = discover_units(around(Norm(UPDATES[update], normalise)), torch.randn(16, 4))
    assert [group.name for group in units] == ["3"]
    (skip,) = (skip for skip in units.skipped if skip.layer == "0")
    assert skip.reason == (
        f"it meets the buffer '1.{name}', which the model updates in training mode, so what it should be for a new "
        "unit is not known"
    )
    assert skip.remedy == "Use nn.BatchNorm or torch.nn.functional.batch_norm, whose statistics start anew"


def test_a_batch_norm_of_a_kind_that_computes_by_itself_is_one_written_by_hand():
    class Own(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return (x - self.running_mean) * torch.rsqrt(self.running_var + self.eps) * self.weight + self.bias

    units = discover_units(around(Own(6)), torch.randn(16, 4))
    assert [group.name for group in units] == ["3"]
    assert "meets the buffer '1.running_mean'" in {skip.layer: skip.reason for skip in units.skipped}["0"]


def nothing(m, mean, var):
    pass


class Functional(Norm):
    """The remedy."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.scale, self.shift, self.training)


class Observed(Norm):
    """Keeps an average of what passes, in either mode, and reads it never."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.mean(0), 0.1)
        return x * self.scale


class Anew(Norm):
    """Makes its buffer anew at every step."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_((x > 0).float().mean(0))
        return x * self.mean


KEPT = {
    "constants": Norm(nothing),
    "a functional batch norm": Functional(nothing),
    "an average that nobody reads": Observed(nothing),
    "averages that evaluation does not read": Norm(in_place, lambda m, x, mean, var: x),
    "a mask made anew": Anew(nothing),
    "a counter": Norm(nothing, lambda m, x, mean, var: x * (1 + m.steps)),
    "one number for all": Norm(in_place, lambda m, x, mean, var: x if m.training else x / (1 + m.var.mean())),
    "drawn, not updated": Norm(lambda m, mean, var: m.var.uniform_(1, 2), lambda m, x, mean, var: x * m.var),
    "torch's own": nn.BatchNorm1d(6),
}


@pytest.mark.parametrize("name", KEPT)
def test_units_are_kept_if_no_statistic_of_theirs_stays_behind(name):
    model, x = around(KEPT[name]), torch.randn(16, 4)
    units = discover_units(model, x)
    assert {group.name for group in units} == {"0", "3"}
    assert not verify_units(model, x, units).failed


def test_what_holds_a_number_per_sample_is_no_statistic_of_units():
    class PerPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("level", torch.ones(7, 1))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.level.lerp_(x.abs().mean((0, 2))[:, None], 0.1)
                return x  # divided by them, the units would be mixed
            return x / self.level

    model, x = nn.Sequential(nn.Linear(4, 6), PerPlace(), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 7, 4)
    assert [group.name for group in discover_units(model, x)] == ["0"]


class Centred(nn.Module):
    """Subtracts a parameter that it sets by itself: at first, or in every step of training."""

    def __init__(self, learns: bool) -> None:
        super().__init__()
        self.mean, self.is_set = nn.Parameter(torch.zeros(6), requires_grad=learns), False

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_set:
            self.mean.data.lerp_(x.detach().mean(0), 0.1)
            self.is_set = self.mean.requires_grad
        return x - self.mean


@pytest.mark.parametrize("learns", [False, True])
def test_units_that_meet_a_parameter_which_the_forward_pass_changes_are_skipped(learns) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), Centred(learns), nn.ReLU(), nn.Linear(6, 2)), torch.randn(8, 4)
    units = discover_units(model, x)
    (skip,) = (skip for skip in units.skipped if skip.layer == "0")
    assert len(units) == 0
    assert skip.reason == "1.mean is changed by the forward pass itself"
    assert skip.remedy.startswith("Run the model once before")
    model(x)
    assert ["1.mean"] * learns == [slot.path for group in discover_units(model, x) for slot in group.incoming[2:]]
