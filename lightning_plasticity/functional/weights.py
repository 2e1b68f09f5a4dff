"""Measures of weights and of what the optimizer does to them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_magnitude(weights: Tensor | Iterable[Tensor]) -> Tensor:
    """Return the mean magnitude of all entries of the weights.

    Args:
        weights: A tensor, or several, of any shapes.

    Returns:
        The mean of ``|w|``, a float64 scalar in ``[0, ∞)``; 0 if there is no entry, NaN if one is NaN.

    Example:
        >>> weight_magnitude([torch.tensor([-1.0, 3.0]), torch.tensor([[2.0]])])
        tensor(2., dtype=torch.float64)
    """
    tensors = _tensors(weights)
    entries = sum(t.numel() for t in tensors)
    return _total(t.abs().sum(dtype=torch.float64) for t in tensors) / max(entries, 1)


def _tensors(weights: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [t.detach() for t in ([weights] if isinstance(weights, Tensor) else weights)]


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars, on the device of the first; 0 if there are none."""
    terms = list(terms)
    if not terms:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()
