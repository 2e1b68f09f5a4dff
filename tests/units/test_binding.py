"""What points into a model follows its copies, travels by names, and says so when it points nowhere."""

from __future__ import annotations

import copy
import pickle  # noqa: S403 - our own objects

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import StateMismatchError
from lightning_plasticity.units import discover_units


class WithMap(nn.Sequential):
    """A model that holds the map of its own units."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.units = discover_units(self, torch.ones(2, 4))


@pytest.fixture
def model():
    return WithMap()


def test_a_copy_of_a_model_and_its_map_belongs_together(model):
    twin, units = copy.deepcopy((model, model.units))
    assert units.model is twin
    assert units["0"].incoming[0].tensor is twin[0].weight
    assert units["0"].outgoing[0].tensor is twin[2].weight
    assert units["0"].tap.module is twin[2]
    assert twin[0].weight is not model[0].weight


def test_a_map_that_is_an_attribute_of_its_model_points_into_the_copy_of_the_model(model):
    twin = copy.deepcopy(model)
    assert twin.units.model is twin
    assert twin.units["0"].incoming[0].tensor is twin[0].weight


def test_a_shallow_copy_of_a_slot_points_into_the_same_model(model):
    slot = model.units["0"].incoming[0]
    assert copy.copy(slot).tensor is slot.tensor


def test_a_pickle_holds_no_weight():
    small, large = (nn.Sequential(nn.Linear(width, 8), nn.Linear(8, width)) for width in (4, 10_000))
    sizes = [len(pickle.dumps(discover_units(m, torch.ones(2, width)))) for m, width in ((small, 4), (large, 10_000))]
    assert sizes[1] < sizes[0] + 100


def test_unpickled_parts_can_be_printed_and_read(model):
    units = pickle.loads(pickle.dumps(model.units))  # noqa: S301
    assert "path='0.weight'" in repr(units["0"])
    assert units["0"].slots[0].index[0].flatten().tolist() == [*range(8)]


@pytest.mark.parametrize(
    "use",
    [
        lambda units: units.model,
        lambda units: units["0"].incoming[0].tensor,
        lambda units: units["0"].incoming[0].gather(torch.tensor([0])),
        lambda units: units["0"].outgoing[0].assign(torch.tensor([0]), 0.0),
        lambda units: units["0"].outgoing[0].magnitude(),
        lambda units: units["0"].tap.watch(print),
    ],
)
def test_what_was_unpickled_points_nowhere_and_says_how_to_bind_it(model, use):
    units = pickle.loads(pickle.dumps(model.units))  # noqa: S301
    with pytest.raises(StateMismatchError, match=r"unpickled and points into no model.*units\.update\(model\)"):
        use(units)


def test_an_attribute_that_does_not_exist_is_an_attribute_error(model):
    with pytest.raises(AttributeError, match="'Slot' object has no attribute 'modul'"):
        model.units["0"].incoming[0].modul  # noqa: B018
