"""What becomes of labels that are reduced along a dimension, or read by one weight column."""

from __future__ import annotations

import torch

from lightning_plasticity.units.tracing.columns import agree, mix
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels
from lightning_plasticity.units.tracing.meeting import meet
from lightning_plasticity.units.tracing.pairs import PRODUCT
from lightning_plasticity.units.tracing.why import SCALES, SHARED, SPREAD


def reason(labels: Labels, ids: torch.Tensor) -> set[str]:
    return {labels.reasons[code] for code in labels.reason[ids].flatten().tolist()}


def test_a_reduction_where_labels_do_not_vary_leaves_them():
    labels = Labels()
    channels = labels.fresh(3)[None, :, None]
    assert mix(labels, channels, [0, 2], "mixed") is channels


def test_a_reduction_over_units_makes_one_mixture_of_them():
    labels = Labels()
    units = labels.fresh(6).reshape(2, 3)
    mixed = mix(labels, units, [1], "mixed", statistic=True)
    assert mixed.shape == (2, 1)
    assert labels.members(mixed[0]).tolist() == units[0].tolist()
    assert labels.members(mixed[1]).tolist() == units[1].tolist()
    assert labels.statistic[mixed].all()


def test_a_reduction_over_a_unit_and_constants_keeps_the_unit():
    labels = Labels()
    unit = labels.fresh(1)
    assert mix(labels, torch.cat([unit, torch.tensor([NOBODY])]), [0], "mixed").tolist() == unit.tolist()


def test_a_reduction_over_the_same_unit_under_two_labels_keeps_it():
    labels = Labels()
    a, b = labels.fresh(1), labels.fresh(1)
    labels.unify(a, b)
    assert not labels.mixture[mix(labels, torch.cat([a, b]), [0], "mixed")].any()


def test_a_reduction_over_a_unit_and_something_foreign_mixes_them():
    labels = Labels()
    unit = labels.fresh(1)
    mixed = mix(labels, torch.cat([unit, torch.tensor([FOREIGN])]), [0], "mixed")
    labels.spoil_members(mixed)
    labels.settle()
    assert reason(labels, unit) == {"mixed"}


def test_a_column_that_reads_one_unit_everywhere_is_its_own():
    labels = Labels()
    units = labels.fresh(3)
    assert agree(labels, units[:, None].expand(3, 4)).tolist() == units.tolist()


def test_a_column_that_reads_constants_belongs_to_nobody():
    assert agree(Labels(), torch.tensor([[NOBODY, NOBODY], [FOREIGN, NOBODY]])).tolist() == [NOBODY, FOREIGN]


def test_units_that_share_one_column_and_have_no_other_become_one():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    owners = agree(labels, torch.stack([a, b], 1))
    assert torch.equal(labels.find(owners), labels.find(a))
    assert torch.equal(labels.find(a), labels.find(b))


def test_units_that_are_spread_over_several_columns_together_are_spoiled():
    labels = Labels()
    units = labels.fresh(3)
    seen = torch.stack([units, units.flip(0)])
    assert agree(labels, seen).tolist() == [FOREIGN] * 2
    assert reason(labels, units) == {SPREAD}


def test_units_that_share_all_of_their_columns_with_one_other_become_one_with_it():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    seen = torch.stack([torch.cat([a, a]), torch.cat([b, b])], 1)
    assert torch.equal(labels.find(agree(labels, seen)), labels.find(a).repeat(2))
    assert torch.equal(labels.find(a), labels.find(b))
    lonely = labels.fresh(3)
    assert agree(labels, lonely[torch.tensor([[0, 1], [0, 2]])]).tolist() == [FOREIGN] * 2


def test_a_sum_of_products_of_one_unit_with_others_belongs_to_it_and_they_scale_it():
    labels = Labels()
    state, value = labels.fresh(3), labels.fresh(2)
    products = meet(labels, state[:, None], value[None], PRODUCT)
    assert mix(labels, products, [0], "mixed").tolist() == [value.tolist()]
    assert reason(labels, state) == {SCALES}
    assert reason(labels, value) == {""}
    gate = meet(labels, labels.fresh(3)[:, None], value[None], PRODUCT)
    opened = mix(labels, labels.shift(gate), [0], "mixed")
    assert labels.offset[opened].all()
    assert torch.equal(labels.find(opened)[0], labels.find(value))


def test_a_sum_of_products_without_a_common_factor_is_a_mixture():
    labels = Labels()
    products = meet(labels, labels.fresh(3)[:, None], labels.fresh(2)[None], PRODUCT)
    assert labels.mixture[mix(labels, products, [0, 1], "mixed")].all()


def test_a_column_that_also_reads_something_foreign_belongs_to_no_unit():
    labels = Labels()
    units = labels.fresh(2)
    seen = torch.stack([units, torch.tensor([FOREIGN, units[1]])], 1)
    assert agree(labels, seen).tolist() == [FOREIGN, units[1].item()]
    assert (reason(labels, units[:1]), reason(labels, units[1:])) == ({SHARED}, {""})


def test_a_column_that_reads_a_mixture_uses_it():
    labels = Labels()
    units = labels.fresh(2)
    mixed = mix(labels, units, [0], "mixed")
    assert agree(labels, mixed[:, None]).tolist() == [FOREIGN]
    labels.settle()
    assert reason(labels, units) == {"mixed"}


def test_a_parameter_that_one_column_reads_joins_its_unit_and_one_that_several_read_does_not():
    labels = Labels()
    units, own, everywhere = labels.fresh(2), labels.fresh(2, soft=True), labels.fresh(1, soft=True)
    agree(labels, torch.stack([units, own, everywhere.expand(2)], 1))
    assert torch.equal(labels.find(own), labels.find(units))
    assert reason(labels, everywhere) == {SPREAD}
