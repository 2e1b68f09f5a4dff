"""What counts as a change of an output or of an activation."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_plasticity.units.proof.comparison import as_real, difference, is_one_number, moved_units

A = torch.tensor([1.0, -4.0])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([A], [A], 0.0),
        ([A], [A + torch.tensor([0.0, 1.0])], 0.25),
        ([A, A], [A, 1.5 * A], 0.5),
        ([A], [A, A], math.inf),
        ([A], [A[:1]], math.inf),
        ([torch.tensor([1, 2])], [torch.tensor([1, 3])], math.inf),
        ([torch.tensor([3 + 4j])], [torch.tensor([3 + 2j])], 0.5),
        ([torch.tensor([1.0, math.nan])], [torch.tensor([1.0, 5.0])], 0.0),
        ([torch.zeros(2)], [torch.ones(2)], math.inf),
        ([torch.zeros(0)], [torch.zeros(0)], 0.0),
    ],
)
def test_a_difference_is_relative_to_the_largest_number(before, after, expected):
    assert difference(before, after) == expected


def test_an_output_that_is_not_finite_any_more_is_no_number():
    assert math.isnan(difference([A], [torch.tensor([1.0, math.inf])]))


def test_complex_numbers_are_compared_as_pairs():
    assert as_real(torch.tensor([1 + 2j])).tolist() == [[1.0, 2.0]]
    assert as_real(A) is A


def test_units_have_moved_if_one_of_their_features_has_in_one_call():
    before = torch.ones(3, 2, 2)
    after = before.clone()
    after[2, 1, 0] += 1e-3
    assert moved_units([before, before], [before, after], 1e-9).tolist() == [False, True]
    assert moved_units([before], [after], 1e-2).tolist() == [False, False]


@pytest.mark.parametrize(("seen", "expected"), [([2.0, 2.0], True), ([2.0, 2.1], False), ([2.0], False)])
def test_one_number_is_seen_at_least_twice(seen, expected):
    assert is_one_number(torch.tensor(seen), 1e-9) is expected
