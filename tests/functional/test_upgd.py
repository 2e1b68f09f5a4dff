import math

import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.upgd import (
    largest_utility,
    perturbed_gradient,
    scaled_utility,
    unit_utility,
    utility_norm,
    weight_utility,
)


def test_second_order_utility_of_a_quadratic_loss_is_the_rise_of_the_loss_without_the_weight():
    weight = torch.tensor([1.5, -0.5, 0.25], dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]], dtype=torch.float64)

    def loss(w):
        return 0.5 * w @ matrix @ w - w.sum()

    (gradient,) = torch.autograd.grad(loss(weight), weight)
    rise = [loss(weight.detach() * (torch.arange(3) != i)) - loss(weight.detach()) for i in range(3)]
    utility = weight_utility(weight.detach(), gradient, matrix.diagonal())
    torch.testing.assert_close(utility, torch.stack(rise), rtol=1e-12, atol=0)
    assert not torch.allclose(utility, weight_utility(weight.detach(), gradient))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_or_curvature_counts_as_no_utility(bad):
    weight, good = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])
    assert weight_utility(weight, torch.tensor([bad, 3.0])).tolist() == [0, -6]
    assert weight_utility(weight, good, torch.tensor([bad, 1.0])).tolist() == [0, -4]


def test_an_infinite_gradient_of_a_zero_weight_counts_as_no_utility():
    assert weight_utility(torch.zeros(1), torch.tensor([math.inf])).tolist() == [0]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dim", [1, -1, -3])
def test_unit_utility_is_the_gradient_of_a_gate_on_the_unit(order, dim):
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.float64)
    gradient, curvature = (torch.randn(activation.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    gate = torch.ones(activation.shape[dim], dtype=torch.float64, requires_grad=True)
    moved = activation.movedim(dim, -1) * gate
    loss = (moved * gradient.movedim(dim, -1)).sum()
    if order == 2:  # a loss with the given second derivative at a gate of 1, and the given first one
        loss = loss + 0.5 * ((moved - activation.movedim(dim, -1)).square() * curvature.movedim(dim, -1)).sum()
    (slope,) = torch.autograd.grad(loss, gate, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), gate) if order == 2 else (torch.zeros(()),)
    got = unit_utility(activation, gradient, curvature if order == 2 else None, dim)
    torch.testing.assert_close(got, (-slope + 0.5 * bend).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_unit_utility_is_the_sum_of_the_utilities_of_the_outgoing_weights(order):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 5, generator=generator, dtype=torch.float64).relu().requires_grad_()
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    out = h @ weight.T
    by_h, by_weight = torch.autograd.grad(out.sigmoid().square().sum(), (h, weight))
    bend_out = torch.rand(6, 3, generator=generator, dtype=torch.float64) if order == 2 else None
    bend_h = None if bend_out is None else bend_out @ weight.detach().square()
    bend_weight = None if bend_out is None else bend_out.T @ h.detach().square()
    of_units = unit_utility(h.detach(), by_h, bend_h)
    of_weights = weight_utility(weight.detach(), by_weight, bend_weight).sum(0)
    torch.testing.assert_close(of_units, of_weights, rtol=1e-12, atol=1e-14)


def test_unit_utility_of_one_sample_without_a_batch_dimension():
    assert unit_utility(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])).tolist() == [-3, 2]


def test_largest_utility_reads_all_tensors_and_ignores_empty_ones():
    utilities = [torch.tensor([[1.0, -7.0]]), torch.empty(0), torch.tensor(3.0)]
    assert largest_utility(utilities) == 3
    assert largest_utility(utilities, absolute=True) == 7


@pytest.mark.parametrize("utilities", [[-1.0, -2.0], [0.0, -2.0], [0.0, 0.0]])
def test_without_a_positive_utility_the_order_stands_and_nothing_is_nan(utilities):
    utility = torch.tensor(utilities)
    scaled = scaled_utility(utility, largest_utility([utility]))
    assert scaled.tolist() == [0.5 if u == 0 else 0.0 for u in utilities]


def test_a_tiny_positive_utility_scales_like_any_other():
    utility = torch.tensor([1e-37, 0.0, -1e-37])
    torch.testing.assert_close(
        scaled_utility(utility, largest_utility([utility])), torch.tensor([0.7310586, 0.5, 0.2689414])
    )


def test_no_utility_at_all_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"no utility at all.*at least one entry.*Leave empty tensors out"):
        largest_utility([torch.empty(0)])


def test_utility_norm_has_one_value_per_unit_or_per_row_of_a_kernel():
    utility = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 2, 2)
    by_unit = [[sum(v * v for v in unit.flatten().tolist()) ** 0.5] for unit in utility]
    torch.testing.assert_close(utility_norm(utility).flatten(1), torch.tensor(by_unit, dtype=torch.float64))
    assert utility_norm(utility, last_axis=True).shape == (2, 3, 2, 1)
    assert utility_norm(torch.tensor([3.0, 4.0])).tolist() == [5]
    assert utility_norm(torch.tensor(-2.0)).item() == 2


@pytest.mark.parametrize("protecting", [True, False])
@pytest.mark.parametrize("gate_scale", [1.0, 2.0])
def test_perturbed_gradient_lets_noise_and_gradient_through_entry_by_entry(protecting, gate_scale):
    gradient, noise, scaled = [2.0, -1.0, 0.0], [0.5, 0.25, -3.0], [0.0, 0.5, 1.0]
    expected = [
        (g + n) * gate_scale * (1 - s) if protecting else g + n * gate_scale * (1 - s)
        for g, n, s in zip(gradient, noise, scaled, strict=True)
    ]
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (gradient, noise, scaled))
    assert perturbed_gradient(*tensors, protecting=protecting, gate_scale=gate_scale).tolist() == expected
