"""Measures of continual learning against loops over the matrix of accuracies."""

import math

import pytest
import torch

from lightning_plasticity import functional
from lightning_plasticity.errors import InvalidArgumentError

NAN = math.nan
FULL = torch.tensor([[0.9, 0.3, 0.2], [0.6, 0.8, 0.25], [0.7, 0.5, 0.95]], dtype=torch.float64)
LOWER = torch.tensor([[0.9, NAN, NAN], [0.6, 0.8, NAN], [0.7, 0.5, 0.95]], dtype=torch.float64)


@pytest.mark.parametrize("matrix", [FULL, LOWER], ids=["full", "lower"])
def test_measures_of_a_finished_stream(matrix):
    scratch = torch.tensor([0.9, 0.9, 0.9], dtype=torch.float64)
    assert functional.average_accuracy(matrix) == pytest.approx((0.7 + 0.5 + 0.95) / 3)
    assert functional.forgetting(matrix) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert functional.backward_transfer(matrix) == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert functional.intransigence(matrix, scratch) == pytest.approx((0.0 + 0.1 - 0.05) / 3)
    assert functional.relative_accuracy(matrix, scratch) == pytest.approx((0.9 + 0.8 + 0.95) / 3 / 0.9)


def test_forward_transfer_needs_the_entries_above_the_diagonal():
    untrained = torch.tensor([0.1, 0.1, 0.2])
    assert functional.forward_transfer(FULL, untrained) == pytest.approx(((0.3 - 0.1) + (0.25 - 0.2)) / 2)
    assert functional.forward_transfer(LOWER, untrained).isnan()


def test_an_unfinished_stream_is_measured_up_to_its_last_row():
    matrix = LOWER.clone()
    matrix[2] = NAN
    assert functional.average_accuracy(matrix) == pytest.approx(0.7)
    assert functional.forgetting(matrix) == pytest.approx(0.3)


def test_a_missing_entry_that_is_needed_gives_nan():
    matrix = LOWER.clone()
    matrix[2, 0] = NAN
    assert functional.average_accuracy(matrix).isnan()
    assert functional.forgetting(matrix).isnan()


@pytest.mark.parametrize("measure", [functional.forgetting, functional.backward_transfer])
def test_before_the_second_experience_there_is_nothing_to_forget(measure):
    assert measure(torch.full((2, 2), NAN)).isnan()
    assert measure(torch.tensor([[0.9, NAN], [NAN, NAN]])).isnan()


def test_forgetting_is_negative_if_accuracy_only_rose():
    assert functional.forgetting(torch.tensor([[0.5, NAN], [0.75, 0.9]])) == pytest.approx(-0.25)


def test_online_accuracy_counts_right_predictions():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [NAN, 0.0]])
    assert functional.online_accuracy(scores, torch.tensor([0, 0, 0])) == pytest.approx(1 / 3)
    assert functional.online_accuracy(torch.tensor([1, 2]), torch.tensor([1, 2])) == pytest.approx(1)


def test_the_area_under_a_curve_weighs_by_time():
    values, times = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 4.0])
    assert functional.area_under_curve(values, times) == pytest.approx((0.5 + 3) / 4)
    assert functional.area_under_curve(values[1:2]) == pytest.approx(1)
    assert functional.area_under_curve(values[:0]).isnan()


def test_bad_shapes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"\[2, 3\].*square.*NaN"):
        functional.average_accuracy(torch.zeros(2, 3))
    with pytest.raises(InvalidArgumentError, match=r"`from_scratch` of shape \[2\].*\[3\]"):
        functional.intransigence(FULL, torch.zeros(2))
    with pytest.raises(InvalidArgumentError, match=r"predictions of shape \[2, 2\].*targets of shape \[3\]"):
        functional.online_accuracy(torch.zeros(2, 2), torch.zeros(3))
    with pytest.raises(InvalidArgumentError, match=r"\[3\] values at \[2\] times"):
        functional.area_under_curve(torch.zeros(3), torch.zeros(2))
