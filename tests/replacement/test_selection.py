"""Which units are replaced."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement import AtMost, BernoulliLowestMature, LowestMature, RandomMature
from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.selection import lowest

COUNTING = [LowestMature, BernoulliLowestMature, RandomMature]
NAN, INF = float("nan"), float("inf")


def aged(*steps):
    """Ages of units that are so many optimizer steps old."""
    ages = Ages(len(steps))
    for now in range(max(steps)):
        ages.advance()
        born_now = torch.tensor([i for i, age in enumerate(steps) if max(steps) - age == now + 1], dtype=torch.int64)
        if len(born_now):
            ages.renew(born_now)
    return ages


def choose(selection, score, ages, generator=None):
    generator = generator or torch.Generator().manual_seed(0)
    due = selection.due(ages, generator)
    return selection.choose(torch.tensor(score, dtype=torch.float64), due, ages, generator).tolist() if due else []


def test_the_ages_of_these_tests_are_as_asked_for():
    assert aged(3, 0, 5, 5).age.tolist() == [3, 0, 5, 5]


@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.3, 1.0])
def test_the_number_replaced_is_the_floor_of_what_is_due_after_any_number_of_steps(rate):
    selection, ages, total = LowestMature(rate, 0), aged(*[5] * 7), 0
    for step in range(1, 400):
        total += selection.due(ages, torch.Generator())
        assert total in {math.floor(rate * 7 * step - 1e-9), math.floor(rate * 7 * step + 1e-9)}
        assert 0 <= ages.carry < 1


@pytest.mark.parametrize("kind", COUNTING)
def test_nothing_is_due_and_nothing_accrues_while_no_unit_is_mature(kind):
    selection, ages, generator = kind(0.5, 10), Ages(8), torch.Generator()
    for _ in range(10):
        ages.advance()
        assert selection.due(ages, generator) == 0
    assert ages.carry == 0
    ages.advance()  # age 11 > 10: no burst of what could have accrued in the meantime
    assert selection.due(ages, generator) == 4


@pytest.mark.parametrize("kind", COUNTING)
def test_a_unit_is_mature_when_its_age_exceeds_the_threshold_strictly(kind):
    assert choose(kind(1.0, 10), [0.0, 0.0], aged(10, 11)) == [1]


@pytest.mark.parametrize("kind", COUNTING)
def test_what_is_due_is_a_fraction_of_the_mature_units_and_not_of_all(kind):
    selection, ages, generator = kind(0.5, 5), aged(6, 2, 9, 1, 0, 3), torch.Generator().manual_seed(0)
    assert [selection.due(ages, generator) for _ in range(50)] == [1] * 50


@pytest.mark.parametrize("kind", COUNTING)
def test_no_more_units_are_due_than_are_mature(kind):
    assert sorted(choose(kind(1.0, 5), [0.0] * 4, aged(6, 2, 9, 1))) == [0, 2]


@pytest.mark.parametrize("kind", COUNTING)
def test_a_rate_of_zero_never_looks_at_a_score(kind):
    ages, generator = aged(*[50] * 5), torch.Generator()
    before = generator.get_state()
    assert [kind(0.0, 3).due(ages, generator) for _ in range(100)] == [0] * 100
    assert torch.equal(generator.get_state(), before)


def test_lowest_scores_come_first_and_ties_go_to_the_older_unit_then_to_the_lower_index():
    score = [0.5, 0.1, 0.1, 0.1, 0.0]
    assert choose(LowestMature(1.0, 0), score, aged(3, 3, 9, 3, 1)) == [4, 2, 1, 3, 0]


def test_units_that_never_did_anything_tie_at_zero_and_the_oldest_goes():
    assert choose(LowestMature(0.25, 0), [0.0] * 4, aged(4, 7, 7, 5)) == [1]


@pytest.mark.parametrize("selection", [LowestMature(1.0, 0), BernoulliLowestMature(1.0, 0), AtMost(10.0)])
@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_units_whose_score_is_not_finite_are_replaced_first(selection, broken):
    assert choose(selection, [0.2, broken, 0.1], aged(4, 4, 4)) == [1, 2, 0]


def test_counts_by_lot_have_the_expectation_of_exact_counts_also_above_one_unit():
    selection, ages, generator = BernoulliLowestMature(0.19, 0), aged(*[5] * 10), torch.Generator().manual_seed(0)
    counts = [selection.due(ages, generator) for _ in range(4000)]
    assert set(counts) == {1, 2}  # 1.9 expected: never 0, never 3
    assert sum(counts) / 4000 == pytest.approx(1.9, abs=4 * math.sqrt(0.9 * 0.1 / 4000))


def test_counts_by_lot_are_the_same_from_the_same_generator_state():
    counts = [
        [BernoulliLowestMature(0.03, 0).due(aged(*[5] * 10), generator) for _ in range(200)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    ]
    assert counts[0] == counts[1]
    assert sum(counts[0]) > 0


def test_scores_at_the_threshold_are_replaced_too_lowest_first():
    assert choose(AtMost(0.1), [0.2, 0.1, 0.05, 0.11], aged(4, 4, 4, 4)) == [2, 1]


def test_a_negative_threshold_replaces_no_unit_with_a_score_of_zero():
    assert choose(AtMost(-1.0), [0.0, 0.3], aged(4, 4)) == []


def test_a_threshold_may_protect_young_units():
    assert choose(AtMost(0.5, maturity_threshold=3), [0.0, 0.0], aged(3, 4)) == [1]


def test_a_layer_that_is_dormant_as_a_whole_is_replaced_as_a_whole():
    assert choose(AtMost(0.0), [0.0] * 3, aged(2, 2, 2)) == [0, 1, 2]


def test_the_random_control_takes_every_mature_unit_equally_often_and_no_other():
    generator, ages = torch.Generator().manual_seed(0), aged(9, 2, 9, 9)
    taken = [choose(RandomMature(0.34, 5), [0.0, 0.0, 1.0, 2.0], ages, generator) for _ in range(3000)]
    counts = [sum(i in units for units in taken) for i in range(4)]
    assert counts[1] == 0
    assert all(abs(counts[i] - sum(counts) / 3) < 4 * math.sqrt(sum(counts) * 2 / 9) for i in (0, 2, 3))


@pytest.mark.parametrize("kind", COUNTING)
@pytest.mark.parametrize("rate", [-0.1, 1.1, NAN])
def test_a_rate_that_is_no_fraction_is_refused(kind, rate):
    with pytest.raises(InvalidArgumentError, match=r"replacement_rate=.*\[0, 1\].*such as 1e-4"):
        kind(replacement_rate=rate)


@pytest.mark.parametrize("kind", [*COUNTING, lambda **k: AtMost(0.1, **k)])
@pytest.mark.parametrize("threshold", [-1, 1.5, True, NAN])
def test_a_maturity_that_is_no_number_of_steps_is_refused(kind, threshold):
    with pytest.raises(InvalidArgumentError, match=r"maturity_threshold=.*whole number in \[0, inf\).*optimizer steps"):
        kind(maturity_threshold=threshold)


def test_a_threshold_that_is_not_a_number_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"threshold=nan"):
        AtMost(NAN)


@pytest.mark.parametrize("count", [1, 7, 599, 600, 700])
def test_the_lowest_of_many_are_those_of_sorting_them_all_also_with_ties(count):
    score = torch.randint(40, (600,), generator=torch.Generator().manual_seed(0)).double()
    score[[5, 17]] = torch.tensor([NAN, INF], dtype=torch.float64)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1)).tolist()  # of preference
    broken = {5, 17}
    expected = sorted(order, key=lambda unit: -1.0 if unit in broken else float(score[unit]))[:count]  # stable
    assert lowest(score, torch.tensor(order), count).tolist() == expected
