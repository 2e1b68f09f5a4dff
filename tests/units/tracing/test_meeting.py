"""What becomes of two labels that meet element by element."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels
from lightning_plasticity.units.tracing.meeting import CONTEXT, DILUTED, PRODUCT, SUM, Manner, meet

NORM = Manner(adds=True, normalises=True)


def reason(labels: Labels, ids: torch.Tensor) -> set[str]:
    return {labels.reasons[code] for code in labels.reason[ids].tolist()}


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


def test_a_gate_for_many_units_is_context_and_the_units_remain():
    labels = Labels()
    units, gate = labels.fresh(3), labels.fresh(1)
    assert meet(labels, units, gate, PRODUCT).tolist() == units.tolist()
    assert reason(labels, gate) == {CONTEXT}
    assert reason(labels, units) == {""}


def test_one_unit_added_to_many_spoils_all():
    labels = Labels()
    units, one = labels.fresh(3), labels.fresh(1)
    assert meet(labels, units, one, SUM).tolist() == [FOREIGN] * 3
    assert reason(labels, units) == {DILUTED}
    assert reason(labels, one) == {CONTEXT}


def test_a_mask_leaves_a_unit_and_a_foreign_summand_takes_it():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    foreign = torch.tensor([FOREIGN])
    assert meet(labels, a, foreign, PRODUCT).tolist() == a.tolist()
    assert meet(labels, b, foreign, SUM).tolist() == [FOREIGN] * 2
    assert (reason(labels, a), reason(labels, b)) == ({""}, {DILUTED})


def test_a_gate_that_is_open_at_zero_lets_the_foreign_factor_through():
    labels = Labels()
    opened = labels.shift(labels.fresh(2))
    assert meet(labels, opened, torch.tensor([FOREIGN]), PRODUCT).tolist() == [FOREIGN] * 2


@pytest.mark.parametrize("manner", [PRODUCT, SUM])
def test_parameters_join_the_one_unit_that_they_meet(manner):
    labels = Labels()
    units, scale = labels.fresh(3), labels.fresh(3, soft=True)
    assert meet(labels, units, scale, manner).tolist() == units.tolist()
    assert torch.equal(labels.find(scale), labels.find(units))


def test_a_parameter_for_all_units_is_dropped_and_harms_none():
    labels = Labels()
    units, slope = labels.fresh(3), labels.fresh(1, soft=True)
    assert meet(labels, units, slope, PRODUCT).tolist() == units.tolist()
    assert (reason(labels, slope), reason(labels, units)) == ({CONTEXT}, {""})


def test_parameters_that_meet_foreign_data_are_dropped():
    labels = Labels()
    scale = labels.fresh(2, soft=True)
    assert meet(labels, torch.tensor([FOREIGN]), scale, PRODUCT).tolist() == [FOREIGN] * 2
    assert reason(labels, scale) == {CONTEXT}


def test_parameters_join_each_other():
    labels = Labels()
    a, b = labels.fresh(2, soft=True), labels.fresh(2, soft=True)
    met = meet(labels, a, b, PRODUCT)
    assert torch.equal(labels.find(met), labels.find(a))
    assert torch.equal(labels.find(a), labels.find(b))


def test_a_statistic_of_the_units_themselves_couples_them():
    labels = Labels()
    units = labels.fresh(3)
    mean = labels.mixtures(1, torch.zeros(3, dtype=torch.long), units, "mixed", statistic=True)
    assert meet(labels, units, mean, NORM).tolist() == units.tolist()
    assert labels.coupled[units].all()
    assert reason(labels, units) == {""}


@pytest.mark.parametrize("statistic", [True, False])
def test_a_mixture_of_other_units_is_used_and_spoils_them(statistic):
    labels = Labels()
    units, others = labels.fresh(3), labels.fresh(3)
    mixed = labels.mixtures(1, torch.zeros(3, dtype=torch.long), others, "mixed", statistic=statistic)
    assert meet(labels, units, mixed, PRODUCT).tolist() == units.tolist()
    labels.settle()
    assert (reason(labels, others), reason(labels, units)) == ({"mixed"}, {""})


def test_a_mixture_and_a_mixture_mix_further():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    zero = torch.zeros(2, dtype=torch.long)
    p, q = (labels.mixtures(1, zero, ids, "mixed", statistic=True) for ids in (a, b))
    met = meet(labels, p, q, SUM)
    assert labels.members(met).tolist() == [*a.tolist(), *b.tolist()]
    assert labels.statistic[met].all()


def test_labels_are_broadcast():
    labels = Labels()
    rows, columns = labels.fresh(2)[:, None], torch.tensor([[NOBODY, FOREIGN]])
    assert meet(labels, rows, columns, PRODUCT).tolist() == [[rows[0].item()] * 2, [rows[1].item()] * 2]
