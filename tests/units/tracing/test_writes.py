"""What is written into memory, all of it or a part, is what is read from there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.units import UnitMap, discover_units, verify_units

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Two layers, a third beside the second, a parameter, a buffer, and a function that uses them."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.second, self.beside = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 8))
        self.register_buffer("memory", torch.zeros(6, 8))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def noise_in_the_input(model: Written, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2].normal_()
    return model.second(model.first(x).relu())


def noise_in_some_units(model: Written, x: Tensor) -> Tensor:
    hidden = model.first(x).relu()
    if model.training:
        hidden[:, :2].normal_()
    return model.second(hidden)


def noise_in_some_units_that_were_read(model: Written, x: Tensor) -> Tensor:
    hidden = model.first(x).relu()
    before = model.beside(hidden)
    hidden[:, :2].uniform_()
    return before + model.second(hidden)


def a_token_and_units_side_by_side(model: Written, x: Tensor) -> Tensor:
    whole = x.new_zeros(len(x) + 1, 8)
    whole[:1] = model.token
    whole[1:] = model.first(x)
    return model.second(whole.relu())


def a_buffer_that_keeps_the_input(model: Written, x: Tensor) -> Tensor:
    model.memory.copy_(x)
    return model.second(model.first(x).relu() + model.memory)


def a_buffer_that_keeps_a_part_of_the_input(model: Written, x: Tensor) -> Tensor:
    model.memory[:3] = x[:3]
    return model.second(model.first(x).relu() + model.memory)


def chance_by_the_units(model: Written, x: Tensor) -> Tensor:
    hidden = model.first(x).relu()
    return model.beside(hidden) + model.second(torch.bernoulli(hidden.sigmoid()) * x)


def chance_by_the_units_in_place(model: Written, x: Tensor) -> Tensor:
    hidden = model.first(x).relu()
    return model.beside(hidden) + model.second(torch.empty_like(hidden).bernoulli_(hidden.sigmoid()) * x)


WRITTEN = {
    noise_in_the_input: [("first", 8)],
    noise_in_some_units: [("first", 8)],
    noise_in_some_units_that_were_read: [("first", 2), ("first#2", 6)],
    a_token_and_units_side_by_side: [("first", 8)],
    a_buffer_that_keeps_the_input: [],
    a_buffer_that_keeps_a_part_of_the_input: [],
    chance_by_the_units: [],
    chance_by_the_units_in_place: [],
}


def proven(model: nn.Module, x: Tensor = X) -> UnitMap:
    units = discover_units(model, x)
    proofs = verify_units(model, x, units)
    assert not proofs.failed, proofs.summary()
    return units


@pytest.mark.parametrize("forward", WRITTEN, ids=lambda forward: forward.__name__.replace("_", " "))
def test_units_are_those_of_what_was_written_last(forward):
    units = proven(Written(forward))
    assert [(group.name, group.size) for group in units] == WRITTEN[forward]


def test_a_parameter_that_fills_a_part_belongs_to_the_units_beside_it():
    (group,) = proven(Written(a_token_and_units_side_by_side))
    assert "token" in [slot.path for slot in group.slots]


def test_parameters_that_take_turns_in_memory_are_told_apart():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            base = torch.randn(5, 16)
            self.left, self.right = nn.Parameter(base[:, :8]), nn.Parameter(base[:, 8:])
            self.read, self.beside = nn.Linear(3, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.read((x @ self.left[2:].t()).relu()) + self.beside((x @ self.right.t()).relu())

    units = proven(Halves())
    assert [(group.name, group.size) for group in units] == [("left", 3), ("right", 5)]


def test_weights_made_of_different_parts_of_one_parameter_have_rows_of_their_own():
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(16, 3)), nn.Parameter(torch.randn(3, 8))
            self.read, self.beside = nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, second = ((x @ (half @ self.right).t()).relu() for half in self.left.split(8))
            return self.read(first) + self.beside(second)

    units = proven(LowRank())
    assert [(group.name, group.size) for group in units] == [("left", 8), ("left#2", 8)]


def test_a_parameter_that_makes_a_weight_elsewhere_too_reads_no_unit():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.read = nn.Linear(8, 8), nn.Linear(3, 2)
            self.weight = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.read((hidden @ (self.weight * 2).t()).relu()) + (x @ (self.weight * 3).t())[:, :2]

    units = proven(Twice())
    assert [(group.name, group.size) for group in units] == []
    reasons = {skip.reason for skip in units.skipped}
    assert any("reads units in one place and makes a weight that reads none elsewhere" in why for why in reasons)
