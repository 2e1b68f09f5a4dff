"""Units that are only used in a sum, a maximum or another mixture of a few of them are one unit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_plasticity.units.tracing.columns import agree, mix
from lightning_plasticity.units.tracing.joining import joined
from lightning_plasticity.units.tracing.labels import FOREIGN, Labels
from lightning_plasticity.units.tracing.meeting import meet
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM


def mixtures(labels: Labels) -> tuple[Tensor, Tensor]:
    """Return six units, and three mixtures of two of them each."""
    units = labels.fresh(6)
    return units, mix(labels, units.reshape(3, 2), [1], "mixed")[:, 0]


def test_the_members_of_each_mixture_become_a_unit_that_need_not_vanish():
    labels = Labels()
    units, mixed = mixtures(labels)
    found = joined(labels, mixed)
    assert torch.equal(labels.find(found)[:, None].expand(3, 2), labels.find(units).reshape(3, 2))
    assert len(labels.find(units).unique()) == 3
    assert labels.hard[found].all()
    assert labels.offset[found].all()


def test_a_column_that_reads_each_of_several_mixtures_reads_a_unit():
    labels = Labels()
    units, mixed = mixtures(labels)
    assert torch.equal(labels.find(agree(labels, mixed[:, None])), labels.find(units).reshape(3, 2)[:, 0])
    labels.settle()
    assert not labels.reason[units].any()


def test_parameters_that_meet_one_mixture_each_join_its_unit_and_one_for_all_does_not():
    labels = Labels()
    units, mixed = mixtures(labels)
    bias, scale = labels.fresh(3, soft=True), labels.fresh(1, soft=True)
    read = meet(labels, meet(labels, mixed, bias, SUM), scale, PRODUCT)
    assert torch.equal(labels.find(joined(labels, read)), labels.find(bias))
    assert torch.equal(labels.find(bias), labels.find(units[::2]))
    assert labels.find(scale).item() not in labels.find(units)


def test_a_mixture_added_to_a_unit_joins_it():
    labels = Labels()
    units, mixed = mixtures(labels)
    stream = labels.fresh(3)
    meet(labels, stream, mixed, SUM)
    assert torch.equal(labels.find(stream)[:, None].expand(3, 2), labels.find(units).reshape(3, 2))


def shared(labels: Labels, units: Tensor) -> Tensor:
    return mix(labels, torch.stack([units[:4], units[2:]]), [1], "mixed")


def with_foreign(labels: Labels, units: Tensor) -> Tensor:
    return mix(labels, torch.stack([units, torch.full((6,), FOREIGN)], 1), [1], "mixed")


def without_rule(labels: Labels, units: Tensor) -> Tensor:
    labels.opaque.add(labels.code("mixed"))
    return mix(labels, units.reshape(3, 2), [1], "mixed")


REFUSED = {
    "one mixture of all": lambda labels, units: mix(labels, units, [0], "mixed"),
    "a unit in two mixtures": shared,
    "something foreign in each": with_foreign,
    "an operation without a rule": without_rule,
    "parameters only": lambda labels, units: mix(labels, labels.fresh(6, soft=True).reshape(3, 2), [1], "mixed"),
    "mixtures that meet": lambda labels, units: meet(labels, *mix(labels, units.reshape(2, 3), [1], "mixed"), PRODUCT),
    "blends": lambda labels, units: mix(labels, labels.blend(units, [units], "blended").reshape(3, 2), [1], "mixed"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_mixtures_stay_what_they_are(kind):
    labels = Labels()
    read = REFUSED[kind](labels, labels.fresh(6))
    assert torch.equal(joined(labels, read), read)
