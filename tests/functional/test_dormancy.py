"""Measures of units against loops over units and samples."""

import pytest
import torch
from support.metric_cases import activations

from lightning_plasticity import functional
from lightning_plasticity.errors import InvalidArgumentError


def columns(x):
    return [[float(value) for value in x[:, unit]] for unit in range(x.shape[1])]


def test_scores_are_mean_magnitudes_relative_to_the_layer():
    x = activations() - 1
    means = [sum(abs(v) for v in column) / len(column) for column in columns(x)]
    layer = sum(means) / len(means)
    assert functional.unit_scores(x).tolist() == pytest.approx([mean / layer for mean in means], rel=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.025, 0.5, 1.0])
def test_dormant_units_score_at_most_the_threshold(threshold):
    x = activations()
    expected = [score <= threshold for score in functional.unit_scores(x).tolist()]
    assert functional.dormant_units(x, threshold).tolist() == expected
    assert functional.dormant_unit_ratio(x, threshold) == pytest.approx(sum(expected) / len(expected))


def test_a_unit_at_the_threshold_is_dormant():
    assert functional.dormant_units(torch.tensor([[1.0, 3.0]]), 0.5).tolist() == [True, False]


def test_dead_dormant_and_rare_units_are_kept_apart():
    x = torch.ones(200, 4)
    x[:, 0] = 0  # dead
    x[1:, 1] = 0  # active once in 200 samples, strongly
    x[0, 1] = 200
    x[:, 2] = 1e-6  # always active, hardly
    assert functional.dead_unit_ratio(x) == pytest.approx(0.25)
    assert functional.dormant_units(x).tolist() == [True, False, True, False]
    assert functional.dormant_by_frequency(x) == pytest.approx(0.5)


@pytest.mark.parametrize("frequency", [0.01, 0.3, 1.0])
def test_dormant_by_frequency_counts_samples(frequency):
    x = activations(100)
    shares = [sum(v > 0 for v in column) / 100 for column in columns(x)]
    assert functional.dormant_by_frequency(x, frequency) == pytest.approx(sum(s < frequency for s in shares) / 10)
    assert functional.active_fraction(x) == pytest.approx(sum(shares) / 10)


def test_saturated_units_sit_at_either_bound():
    x = torch.tanh(torch.tensor([[-9.0, 9.0, 0.1, 9.0], [9.0, 9.0, 0.2, 0.1]]))
    assert functional.saturated_unit_ratio(x) == pytest.approx(0.5)
    assert functional.saturated_unit_ratio(x, frequency=0.5) == pytest.approx(0.75)
    assert functional.saturated_unit_ratio(torch.sigmoid(x * 100), (0.0, 1.0)) == pytest.approx(1)


def test_duplicate_units_correlate():
    x = activations(100)
    expected = torch.corrcoef(x.T).nan_to_num().fill_diagonal_(0).abs().gt(0.95).any(0)
    assert expected.sum() == 2
    assert functional.duplicate_unit_ratio(x) == expected.double().mean()


def test_a_constant_unit_has_no_duplicate_whatever_its_size():
    x = torch.tensor([1e8, 0.1]).repeat(50, 1)
    assert functional.duplicate_unit_ratio(x) == pytest.approx(0)


def test_one_unit_is_neither_dormant_nor_a_duplicate():
    x = torch.rand(5, 1)
    assert functional.dormant_unit_ratio(x) == functional.duplicate_unit_ratio(x) == pytest.approx(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: functional.dormant_by_frequency(x, 0.0), r"frequency=0.0.*\(0, 1\]"),
        (lambda x: functional.duplicate_unit_ratio(x, 1.5), r"threshold=1.5.*\(0, 1\]"),
        (
            lambda x: functional.saturated_unit_ratio(x, (1.0, -1.0)),
            r"bounds=\(1.0, -1.0\).*smaller and a larger.*tanh",
        ),
        (lambda x: functional.saturated_unit_ratio(x, tolerance=0.0), r"tolerance=0.0.*\(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call(torch.ones(2, 2))
