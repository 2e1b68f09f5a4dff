"""What comes out where labels of each two kinds meet."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.columns import agree, mix
from lightning_plasticity.units.tracing.labels import FOREIGN, FOREIGN_KIND, Labels
from lightning_plasticity.units.tracing.meeting import meet
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM, Manner, several
from lightning_plasticity.units.tracing.why import ADDED, DILUTED, OUTPUT, SCALES

NORM = Manner(adds=True, normalises=True)


def reason(labels: Labels, ids: torch.Tensor) -> set[str]:
    return {labels.reasons[code] for code in labels.reason[ids].tolist()}


def test_a_gate_for_many_units_is_context_and_the_units_remain():
    labels = Labels()
    units, gate = labels.fresh(3), labels.fresh(1)
    assert meet(labels, units, gate, PRODUCT).tolist() == units.tolist()
    assert reason(labels, gate) == {SCALES}
    assert reason(labels, units) == {""}


def test_one_unit_added_to_many_spoils_all():
    labels = Labels()
    units, one = labels.fresh(3), labels.fresh(1)
    lost = meet(labels, units, one, SUM)
    assert labels.kind(lost).tolist() == [FOREIGN_KIND] * 3
    assert (reason(labels, units), reason(labels, one)) == ({DILUTED}, {ADDED})


def test_a_sum_in_which_units_were_lost_counts_as_foreign_and_remembers_them():
    labels = Labels()
    units, one, third = labels.fresh(3), labels.fresh(1), labels.fresh(3)
    lost = meet(labels, units, one, SUM)
    further = meet(labels, lost, torch.tensor([FOREIGN]), SUM)
    assert labels.kind(further).tolist() == [FOREIGN_KIND] * 3
    assert agree(labels, lost[:, None]).tolist() == [FOREIGN] * 3
    assert mix(labels, torch.stack([lost[0], torch.tensor(FOREIGN)]), [0], "mixed").tolist() == [FOREIGN]
    assert torch.equal(meet(labels, third, lost, PRODUCT), third)
    labels.end(further)
    labels.settle()
    assert reason(labels, torch.cat([units, one])) == {OUTPUT}
    assert reason(labels, third) == {""}


def blend_of(labels: Labels, of: torch.Tensor) -> torch.Tensor:
    return meet(labels, of, torch.tensor([FOREIGN]), SUM)


def test_a_mask_leaves_a_unit_and_a_foreign_summand_makes_it_a_blend():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    assert meet(labels, a, torch.tensor([FOREIGN]), PRODUCT).tolist() == a.tolist()
    labels.spoil_members(blend_of(labels, b))
    labels.settle()
    assert (reason(labels, a), reason(labels, b)) == ({""}, {DILUTED})


def test_a_gate_that_is_open_at_zero_lets_the_foreign_factor_through():
    labels = Labels()
    opened = labels.shift(labels.fresh(2))
    blend = meet(labels, opened, torch.tensor([FOREIGN]), PRODUCT)
    assert labels.core[blend].tolist() == opened.tolist()


@pytest.mark.parametrize("soft", [True, False])
def test_what_a_blend_is_made_of_belongs_to_the_unit_that_it_scales(soft):
    labels = Labels()
    units, own = labels.fresh(3), labels.fresh(3, soft=soft)
    blend = blend_of(labels, own)
    assert meet(labels, units, blend, PRODUCT).tolist() == units.tolist()
    assert torch.equal(labels.find(own), labels.find(units))
    assert reason(labels, own) == {""}


@pytest.mark.parametrize("soft", [True, False])
def test_a_blend_that_scales_a_unit_and_is_read_elsewhere_spoils_what_it_is_made_of(soft):
    labels = Labels()
    units, own = labels.fresh(3), labels.fresh(3, soft=soft)
    blend = blend_of(labels, own)
    meet(labels, units, blend, PRODUCT)
    assert agree(labels, blend[:, None]).tolist() == [FOREIGN] * 3
    labels.settle()
    assert reason(labels, own) == {DILUTED}
    assert reason(labels, units) == {""}


@pytest.mark.parametrize("soft", [True, False])
def test_a_blend_that_scales_several_units_belongs_to_none(soft):
    labels = Labels()
    units, own = labels.fresh(3), labels.fresh(1, soft=soft)
    assert meet(labels, units, blend_of(labels, own), PRODUCT).tolist() == units.tolist()
    labels.settle()
    assert labels.find(units).unique().numel() == 3
    assert reason(labels, own) != {""}
    assert reason(labels, units) == {""}


def test_a_blend_added_to_a_unit_is_a_blend_of_both():
    labels = Labels()
    units, own = labels.fresh(3), labels.fresh(3, soft=True)
    blend = meet(labels, units, blend_of(labels, own), SUM)
    assert torch.equal(labels.core[blend], units)
    assert torch.equal(labels.find(own), labels.find(units))


def test_blends_and_parameters_blend_further():
    labels = Labels()
    units, *own = labels.fresh(3), *(labels.fresh(3, soft=True) for _ in range(3))
    both = meet(labels, blend_of(labels, own[0]), blend_of(labels, own[1]), PRODUCT)
    meet(labels, units, meet(labels, both, own[2], SUM), PRODUCT)
    assert all(torch.equal(labels.find(some), labels.find(units)) for some in own)


def test_a_norm_gives_a_blend_up_and_is_applied_to_what_is_foreign():
    labels = Labels()
    own = labels.fresh(3, soft=True)
    blend = blend_of(labels, own)
    mean = mix(labels, blend, [0], "mixed", statistic=True)
    assert meet(labels, blend, mean, NORM).tolist() == [FOREIGN] * 3
    labels.settle()
    assert reason(labels, own) == {DILUTED}


def test_of_two_contexts_the_one_that_scales_a_unit_of_its_own_belongs_to_it():
    labels = Labels()
    units, step, state = labels.fresh(3), labels.fresh(3), labels.fresh(2)
    gate = meet(labels, step[:, None], state[None], PRODUCT)
    assert meet(labels, units[:, None], gate, PRODUCT).tolist() == units[:, None].expand(3, 2).tolist()
    assert torch.equal(labels.find(step), labels.find(units))
    assert (reason(labels, state), reason(labels, step)) == ({SCALES}, {""})


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
    assert (reason(labels, slope), reason(labels, units)) == ({SCALES}, {""})


def test_units_to_which_one_parameter_is_added_become_one_unit_unless_it_is_added_to_all():
    labels = Labels()
    units, bias = labels.fresh(6).reshape(2, 3), labels.fresh(3, soft=True)
    assert meet(labels, units, bias[None], SUM).tolist() == units.tolist()
    assert torch.equal(labels.find(units), labels.find(bias).expand(2, 3))
    alone, shared = labels.fresh(3), labels.fresh(1, soft=True)
    assert meet(labels, alone, shared, SUM).tolist() == alone.tolist()
    assert len(labels.find(alone).unique()) == 3
    assert reason(labels, torch.cat([units.flatten(), bias, alone])) == {""}


def test_a_parameter_that_is_added_to_units_of_two_layers_makes_them_one():
    labels = Labels()
    first, second, bias = labels.fresh(3), labels.fresh(3), labels.fresh(3, soft=True)
    for units in (first, second):
        assert meet(labels, units, bias, SUM).tolist() == units.tolist()
    assert torch.equal(labels.find(first), labels.find(second))


def test_parameters_that_are_added_across_units_lose_them_and_those_that_they_had_joined():
    labels = Labels()
    before, units, bias = labels.fresh(2), labels.fresh(2), labels.fresh(2, soft=True)
    meet(labels, before, bias, SUM)
    assert labels.mixture[meet(labels, units[:, None], bias[None], SUM)].all()
    assert reason(labels, torch.cat([bias, before])) == {ADDED}


def test_a_large_table_of_parameters_that_meets_foreign_data_is_dropped():
    labels = Labels()
    table = labels.fresh(2**14 + 1, soft=True)
    assert meet(labels, torch.tensor([FOREIGN]), table, PRODUCT).unique().tolist() == [FOREIGN]
    assert reason(labels, table) == {DILUTED}


@pytest.mark.parametrize(("manner", "open_at_zero"), [(SUM, True), (PRODUCT, False)])
def test_of_two_names_of_a_unit_a_row_stands_before_a_parameter_and_a_gate_stands_in_sums_only(manner, open_at_zero):
    labels = Labels()
    unit, scale = labels.fresh(1), labels.fresh(1, soft=True)
    gate = labels.shift(unit)
    labels.unify(unit, scale)
    for one, other in ((unit, gate), (gate, unit)):
        assert labels.offset[meet(labels, one, other, manner)].item() is open_at_zero
    for one, other in ((unit, scale), (scale, unit)):
        assert meet(labels, one, other, manner).tolist() == unit.tolist()


def test_parameters_join_each_other():
    labels = Labels()
    a, b = labels.fresh(2, soft=True), labels.fresh(2, soft=True)
    met = meet(labels, a, b, PRODUCT)
    assert torch.equal(labels.find(met), labels.find(a))
    assert torch.equal(labels.find(a), labels.find(b))


def test_entries_of_a_table_that_meet_one_parameter_join_it_unless_all_meet_all():
    labels = Labels()
    table, scale = labels.fresh(6, soft=True).reshape(2, 3), labels.fresh(3, soft=True)
    meet(labels, table, scale[None], PRODUCT)
    assert torch.equal(labels.find(table), labels.find(scale).expand(2, 3))
    rows, columns = labels.fresh(2, soft=True), labels.fresh(3, soft=True)
    assert not meet(labels, rows[:, None], columns[None], SUM).any()
    assert reason(labels, torch.cat([rows, columns])) == {ADDED}


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


def test_several_finds_what_is_paired_with_more_than_one():
    assert several(torch.tensor([1, 1, 2, 3, 3]), torch.tensor([7, 8, 7, 9, 9])).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert several(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)).tolist() == []
