"""Good units that own the same are a group; groups, and the units of each, are in the order of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units
from lightning_plasticity.units.tracing import grouping
from lightning_plasticity.units.tracing.grouping import _alike, _ByGroup


def test_units_are_alike_if_they_own_equally_many_entries_of_every_tensor():
    rows, columns = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 2, 2, 3, -1])
    which = _alike(torch.cat([rows, columns]), [len(rows), len(columns)], 4)
    assert which[0] == which[2]
    assert which[1] == which[3]
    assert which[0] != which[1]


@pytest.mark.parametrize("remembered", [8, 7])
def test_positions_are_given_group_by_group_in_the_order_of_their_units(remembered, monkeypatch):
    monkeypatch.setattr(grouping, "_MOST_REMEMBERED", remembered)
    units = torch.tensor([3, -1, 1, 0, 3, 2, 1, 0])
    group_of = torch.tensor([0, 0, 1, 1])
    by_group = _ByGroup(group_of)
    for _ in range(2):
        found = {g: (present.tolist(), where.tolist()) for g, present, where in by_group.of(units)}
        assert found == {0: ([0, 0, 1, 1], [3, 7, 2, 6]), 1: ([2, 3, 3], [5, 0, 4])}
    assert len(by_group.known) == (len(units) <= remembered)
    assert [g for g, _, _ in by_group.of(units.flip(0)[:2])] == [0]


def test_nobody_is_in_no_group():
    assert _ByGroup(torch.empty(0, dtype=torch.long)).of(torch.full((3,), -1)) == []


class Concatenated(nn.Module):
    """Two writers, read in the other order than they are written, one of them also by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 2)
        self.both, self.more = nn.Linear(6, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        return self.both(torch.cat([b, a], -1)) + self.more(b)


def test_one_tensor_is_divided_among_the_groups_that_own_parts_of_it():
    units = discover_units(Concatenated(), torch.randn(5, 3))
    assert [group.name for group in units] == ["a", "b"]
    tables = {group.name: {slot.path: slot.index[0].flatten().tolist() for slot in group.outgoing} for group in units}
    assert tables == {"a": {"both.weight": [2, 3, 4, 5]}, "b": {"both.weight": [0, 1], "more.weight": [0, 1]}}
    assert [group.tap.index.flatten().tolist() for group in units] == [[2, 3, 4, 5], [0, 1]]


class Interleaved(nn.Module):
    """Every other row of one weight is read by another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.even, self.odd = nn.Linear(3, 6), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.rows(x))
        return self.even(hidden[:, ::2]) + self.odd(hidden[:, 1::2])


def test_interleaved_rows_of_one_weight_are_two_groups_in_the_order_of_their_first_rows():
    units = discover_units(Interleaved(), torch.randn(5, 3))
    rows = {group.name: group.incoming[0].index[0].flatten().tolist() for group in units}
    assert rows == {"rows": [0, 2, 4], "rows#2": [1, 3, 5]}


@pytest.mark.parametrize("features", [1, 3])
def test_a_single_unit_owns_its_whole_row_and_every_column_that_reads_it(features):
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, features), nn.ReLU(), nn.Linear(features, 2))
    first = discover_units(model, torch.randn(5, 2))["0"]
    assert first.size == 1
    assert [tuple(slot.gather(torch.tensor([0])).shape) for slot in first.outgoing] == [(1, 1, features)]
