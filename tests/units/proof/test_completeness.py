"""What was forgotten is told by units that act on the output; where too few act, nothing is."""

from __future__ import annotations

import torch
from support.proof_cases import slot
from torch import Tensor, nn

from lightning_plasticity.units import UnitGroup, UnitMap, verify_units


class MostlyDead(nn.Sequential):
    """Of its six hidden units, the first ``alive`` are not silent on positive inputs."""

    def __init__(self, alive: int) -> None:
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        with torch.no_grad():
            self[0].weight.abs_().add_(0.1)
            self[0].weight[alive:] *= -1
            self[0].bias.fill_(-0.01)


class Detached(MostlyDead):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](torch.from_numpy(self[1](self[0](x)).detach().numpy().copy()))


def bias_only(model: nn.Sequential) -> UnitMap:
    """Return a map that has forgotten the weight of its units."""
    bias = slot(model, "0.bias", kind="bias")
    return UnitMap(model, (UnitGroup("0", 6, (bias,), (), (slot(model, "2.weight", 1),), None),))


def proof_of(model: nn.Sequential):
    torch.manual_seed(0)
    return verify_units(model, torch.rand(8, 4), bias_only(model))["0"]


def test_silent_units_that_are_exchanged_show_nothing_so_those_that_act_are() -> None:
    assert proof_of(MostlyDead(2)).complete is False


def test_of_fewer_than_two_units_that_act_nothing_is_told() -> None:
    assert proof_of(MostlyDead(1)).complete is None


def test_without_derivatives_units_that_act_are_found_by_trial_and_what_was_forgotten_is_not_told() -> None:
    torch.manual_seed(0)
    model, x = Detached(6), torch.rand(8, 4)
    (wrong,) = bias_only(model)
    right = UnitGroup("0", 6, (slot(model, "0.weight"), *wrong.incoming), (), wrong.outgoing, None)
    assert verify_units(model, x, UnitMap(model, (right,)))["0"].complete is True
    assert verify_units(model, x, UnitMap(model, (wrong,)))["0"].complete is None
