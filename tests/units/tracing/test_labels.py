"""Labels are ids that are unified, spoiled and made of others; faults go back to what a label was made of."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.labels import FOREIGN, HARD, MIXTURE, NOBODY, SOFT, Labels, foreign


def test_fresh_labels_are_new_and_of_their_kind():
    labels = Labels()
    hard, soft, mixed = labels.fresh(2), labels.fresh(2, soft=True), labels.fresh(2, mixture=True)
    assert torch.cat([hard, soft, mixed]).tolist() == [*range(FOREIGN + 1, FOREIGN + 7)]
    assert [labels.kind(ids).tolist() for ids in (hard, soft, mixed)] == [[HARD] * 2, [SOFT] * 2, [MIXTURE] * 2]
    assert labels.kind(torch.tensor([FOREIGN])).item() == 0


def test_what_is_known_of_labels_stays_when_there_are_more_than_expected():
    labels = Labels(room=2)
    a, b = labels.fresh(2).split(1)
    soft = labels.fresh(2, soft=True)
    labels.unify(a, b)
    labels.spoil(a, "bad")
    labels.couple(b)
    labels.switch_off(torch.zeros(len(labels.root), dtype=torch.bool).index_fill(0, a, True))
    more = labels.fresh(100, soft=True)
    assert labels.find(b) == labels.find(a) == a
    assert labels.reasons[labels.reason[a]] == "bad"
    assert labels.coupled[torch.cat([a, b])].tolist() == [False, True]
    assert labels.alive(torch.cat([a, b])).tolist() == [FOREIGN, b.item()]
    assert (labels.kind(torch.cat([soft, more])) == SOFT).all()
    assert torch.equal(labels.find(more), more)
    assert labels.adopt(more, b)


def test_unity_is_transitive_and_independent_of_the_order():
    labels = Labels()
    a, b, c = labels.fresh(3).split(1)
    labels.unify(c, b)
    labels.unify(a, c)
    assert labels.find(torch.cat([a, b, c])).tolist() == [a.item()] * 3


def test_entries_that_belong_to_nobody_join_the_units_they_meet_at_once():
    labels = Labels()
    units, entries = labels.fresh(3), labels.fresh(6, soft=True).reshape(3, 2)
    assert labels.adopt(entries, units[:, None])
    assert torch.equal(labels.find(entries), labels.find(units)[:, None].expand(3, 2))
    assert not labels.unjoined[torch.cat([units, entries.flatten()])].any()


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(lambda labels, e: (e, torch.stack([e[0], e[1]])), id="they meet other entries"),
        pytest.param(lambda labels, e: (e, torch.full((2,), FOREIGN)), id="they meet something foreign"),
        pytest.param(lambda labels, e: (e, labels.fresh(2, mixture=True)), id="they meet mixtures"),
        pytest.param(lambda labels, e: (e[[0, 0]], labels.fresh(2)), id="one meets two units"),
        pytest.param(lambda labels, e: (labels.fresh(2), labels.fresh(2)), id="they are units"),
        pytest.param(lambda labels, e: (labels.unify(e, e.flip(0)), labels.fresh(2)), id="they belong to each other"),
    ],
)
def test_entries_that_may_not_join_at_once_are_left_as_they_are(refused):
    labels = Labels()
    soft, units = refused(labels, labels.fresh(2, soft=True))
    before = labels.root.clone()
    assert not labels.adopt(soft, units)
    assert torch.equal(labels.root, before)


def test_the_first_reason_stays_and_nobody_and_foreign_have_none():
    labels = Labels()
    a = labels.fresh(1)
    labels.spoil(torch.cat([a, torch.tensor([NOBODY, FOREIGN])]), "first")
    labels.spoil(a, "second")
    assert labels.reasons[int(labels.reason[a])] == "first"
    assert labels.reason[[NOBODY, FOREIGN]].tolist() == [0, 0]


def test_faults_of_a_sum_go_back_to_both_summands_and_not_beyond():
    labels = Labels()
    a, b, other = labels.fresh(3).split(1)
    child = labels.child(a, b, summed=True)
    labels.spoil(child, "why")
    labels.couple(child)
    labels.settle()
    assert (labels.reason[torch.cat([a, b, other])] != 0).tolist() == [True, True, False]
    assert labels.coupled[torch.cat([a, b, other])].tolist() == [True, True, False]


def test_a_mixture_harms_its_members_only_when_it_is_used():
    labels = Labels()
    members, unused = labels.fresh(2), labels.fresh(2)
    where = torch.zeros(2, dtype=torch.long)
    used = labels.mixtures(1, where, members, "mixed", statistic=False)
    labels.mixtures(1, where, unused, "mixed", statistic=False)
    labels.spoil_members(used)
    labels.settle()
    assert (labels.reason[members] != 0).all()
    assert (labels.reason[unused] == 0).all()


def test_members_are_found_through_mixtures_of_mixtures():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(1)
    inner = labels.mixtures(1, torch.zeros(2, dtype=torch.long), a, "", statistic=True)
    outer = labels.mixtures(1, torch.zeros(2, dtype=torch.long), torch.cat([inner, b]), "", statistic=True)
    assert labels.members(outer).tolist() == [*a.tolist(), *b.tolist()]


def test_shifted_labels_are_the_same_units_and_shifted_once():
    labels = Labels()
    a = labels.fresh(2)
    shifted = labels.shift(a)
    assert torch.equal(labels.find(shifted), labels.find(a))
    assert labels.offset[shifted].all()
    assert torch.equal(labels.shift(a), shifted)
    assert torch.equal(labels.shift(shifted), shifted)


def test_a_shifted_product_of_two_units_is_another_product_of_them():
    labels = Labels()
    a, b = labels.fresh(1), labels.fresh(1)
    product = labels.blend(a, [a, b], "both", b)
    shifted = labels.shift(product)
    assert (labels.core[shifted].item(), labels.core_beside[shifted].item()) == (a.item(), b.item())
    assert labels.offset[shifted].all()
    assert not labels.offset[product].any()
    assert torch.equal(labels.shift(shifted), shifted)


def test_what_is_switched_off_is_foreign_in_the_next_run_and_keeps_its_reason():
    labels = Labels()
    a = labels.fresh(2)
    labels.spoil(a[:1], "why")
    which = torch.zeros_like(labels.off)
    which[a[0]] = True
    labels.switch_off(which)
    labels.restart()
    assert labels.alive(a).tolist() == [FOREIGN, a[1].item()]
    assert labels.reason[a].tolist() == [0, 0]
    assert labels.reasons[int(labels.off_reason[a[0]])] == "why"


def test_foreign_labels_are_compact():
    assert foreign(3).shape == (1, 1, 1)
    assert foreign(0).item() == FOREIGN
