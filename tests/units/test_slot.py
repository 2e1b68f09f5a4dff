"""A slot addresses the entries of its units and no others, however they lie in the tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_plasticity.units import Slot, discover_units

CASES = {
    "rows": (nn.Linear(3, 4), (0,), (torch.arange(4)[:, None],)),
    "rows of a kernel": (nn.Conv2d(2, 3, 2), (0,), (torch.arange(3)[:, None],)),
    "columns": (nn.Linear(4, 3), (1,), (torch.arange(4)[:, None],)),
    "several columns each": (nn.Linear(6, 3), (1,), (torch.arange(6).reshape(2, 3),)),
    "columns in another order": (nn.Linear(3, 2), (1,), (torch.tensor([[2], [0], [1]]),)),
    "a part of the rows": (nn.Linear(2, 9), (0,), (torch.arange(6, 9)[:, None],)),
    "blocks of a grouped kernel": (
        nn.Conv2d(4, 6, 1, groups=2),
        (0, 1),
        (torch.tensor([[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]), torch.tensor([[0] * 3, [1] * 3] * 2)),
    ),
}


@pytest.fixture(params=CASES)
def slot(request):
    module, dims, index = CASES[request.param]
    return Slot(module, "weight", "layer.weight", dims, index)


def entries(slot, unit):
    """Return by a loop which entries of the flattened tensor belong to a unit."""
    shape = tuple(slot.tensor.shape)
    found = []
    for feature in range(slot.features):
        wanted = {dim: int(table[unit, feature]) for dim, table in zip(slot.dims, slot.index, strict=True)}
        for flat, place in enumerate(torch.cartesian_prod(*map(torch.arange, shape)).tolist()):
            if all(place[dim] == position for dim, position in wanted.items()):
                found.append(flat)
    return found


def test_gather_and_positions_are_the_entries_of_the_units(slot):
    flat = slot.tensor.detach().flatten()
    units = torch.tensor([slot.size - 1, 0])
    expected = [place for unit in units.tolist() for place in entries(slot, unit)]
    assert slot.positions(units).tolist() == expected
    assert torch.equal(slot.gather(units).flatten(), flat[expected])


def test_an_entry_that_belongs_to_two_units_is_noticed(slot):
    owned = [place for unit in range(slot.size) for place in entries(slot, unit)]
    assert slot.is_disjoint
    assert len(set(owned)) == len(owned)
    twice = torch.tensor([0, *range(slot.size - 1)])
    assert not Slot(
        slot.module, slot.name, slot.path, slot.dims, tuple(table[twice] for table in slot.index)
    ).is_disjoint


def test_assign_writes_the_entries_of_the_units_and_nothing_else(slot):
    before, identity = slot.tensor.detach().clone(), slot.tensor
    unit = slot.size - 1
    slot.assign(torch.tensor([unit]), 9.0)
    expected = before.flatten().clone()
    expected[entries(slot, unit)] = 9.0
    assert torch.equal(slot.tensor.detach().flatten(), expected)
    assert slot.tensor is identity
    slot.assign(torch.arange(slot.size), slot.view(before)[slot.at(torch.arange(slot.size), before.device)])
    assert torch.equal(slot.tensor.detach(), before)


def test_magnitude_is_the_mean_absolute_entry_of_every_unit(slot):
    flat = slot.tensor.detach().flatten().abs()
    expected = torch.stack([flat[entries(slot, unit)].mean() for unit in range(slot.size)])
    torch.testing.assert_close(slot.magnitude(), expected)
    assert slot.entries_per_unit == len(entries(slot, 0))


def test_sums_can_be_written_into_a_given_tensor(slot):
    out = torch.empty(slot.size * slot.features)
    assert slot.absolute_sums(out) is out
    assert torch.equal(out, slot.absolute_sums())


def test_no_unit_is_a_choice_too(slot):
    none = torch.empty(0, dtype=torch.int64)
    before = slot.tensor.detach().clone()
    slot.assign(none, 1.0)
    assert torch.equal(slot.tensor.detach(), before)
    assert len(slot.gather(none)) == len(slot.positions(none)) == 0


def test_values_are_written_into_a_tensor_of_the_same_shape_instead(slot):
    memory = torch.zeros_like(slot.tensor)
    slot.assign(torch.arange(slot.size), 1.0, tensor=memory)
    assert int(memory.sum()) == len({place for unit in range(slot.size) for place in entries(slot, unit)})
    assert not memory.requires_grad


@pytest.mark.parametrize(
    ("kind", "value"), [("weight", None), ("carried", None), ("bias", 0), ("scale", 1), ("shift", 0), ("variance", 1)]
)
def test_what_entries_are_reset_to_follows_from_their_kind(kind, value):
    slot = Slot(nn.Linear(2, 2), "bias", "bias", (0,), (torch.arange(2)[:, None],), kind=kind)
    assert slot.neutral == value


def test_a_tensor_fits_if_it_differs_only_where_no_units_are_counted():
    slot = Slot(nn.Linear(4, 3), "weight", "weight", (1,), (torch.arange(4)[:, None],))
    assert slot.fits(torch.empty(9, 4))
    assert not slot.fits(torch.empty(3, 5))
    assert not slot.fits(torch.empty(3, 4, 1))


def test_slots_follow_the_tensor_that_the_module_holds_now():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    slot = discover_units(model, torch.randn(2, 3))["0"].incoming[0]
    model[0].weight = nn.Parameter(torch.zeros(4, 3))
    assert slot.tensor is model[0].weight
