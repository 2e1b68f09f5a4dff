"""The worth of units as functions of tensors."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.functional.utility import (
    absolute_sum,
    contribution,
    relative_to_mean,
    sum_over_samples,
)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 4), (700, 3, 30, 10), (3, 400_000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_absolute_sums_are_those_of_a_loop_over_features_whatever_the_size(shape, dtype):
    values = torch.randn(shape, dtype=dtype)
    dim = shape.index(3)
    expected = torch.stack([values.select(dim, f).double().abs().sum() for f in range(3)])
    torch.testing.assert_close(absolute_sum(values, dim).double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(absolute_sum(values, dim - len(shape)).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("total", [sum_over_samples, absolute_sum])
def test_sums_of_half_precision_are_taken_in_single_precision(total):
    values = torch.full((3000, 2), 0.1, dtype=torch.bfloat16)
    assert total(values, -1).dtype == torch.float32
    torch.testing.assert_close(total(values, -1), values[0].float() * 3000, rtol=1e-3, atol=0)


def test_contribution_after_a_flatten_is_a_mean_of_products_not_a_product_of_means():
    activation, outgoing = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert contribution(activation, outgoing).tolist() == [0.0]


def test_magnitudes_relative_to_their_mean_have_mean_one():
    assert relative_to_mean(torch.rand(7, dtype=torch.float64)).mean().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_magnitude_does_not_touch_the_others(broken):
    shares = relative_to_mean(torch.tensor([1.0, broken, 3.0]))
    assert shares[[0, 2]].tolist() == [0.5, 1.5]
    assert not shares[1].isfinite()


def test_a_layer_that_is_broken_as_a_whole_stays_broken():
    assert relative_to_mean(torch.full((3,), float("nan"))).isnan().all()
