"""Where labels meet element by element, nobody is neutral, and units that meet one-to-one are one."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels
from lightning_plasticity.units.tracing.meeting import meet
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM


@pytest.mark.parametrize("manner", [PRODUCT, SUM])
def test_nobody_is_neutral(manner):
    labels = Labels()
    a = labels.fresh(3)
    nobody = torch.full((1,), NOBODY)
    assert meet(labels, a, None, manner) is a
    assert meet(labels, None, a, manner) is a
    assert meet(labels, a, nobody, manner).tolist() == a.tolist()


@pytest.mark.parametrize("manner", [PRODUCT, SUM])
def test_units_that_meet_one_to_one_become_one(manner):
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    met = meet(labels, a, b, manner)
    assert torch.equal(labels.find(met), labels.find(a))
    assert torch.equal(labels.find(a), labels.find(b))
    assert labels.find(a).unique().numel() == 3
    assert labels.summed[met].all().item() is manner.adds


def test_labels_are_broadcast():
    labels = Labels()
    rows, columns = labels.fresh(2)[:, None], torch.tensor([[NOBODY, FOREIGN]])
    assert meet(labels, rows, columns, PRODUCT).tolist() == [[rows[0].item()] * 2, [rows[1].item()] * 2]
