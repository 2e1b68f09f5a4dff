"""Measures of rank: how many directions the features of a layer use.

Letters: ``N`` samples, ``D`` features, ``K`` singular values ``σ``, in descending order.

Every public function takes features; every private one of the same name takes their singular values, so that the
classes of :mod:`lightning_plasticity.metrics` share one decomposition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.functional.spectrum import (
    Positions,
    as_samples,
    rounding_noise,
    rounding_unit,
    singular_values,
)


def effective_rank(
    features: Tensor, *, centered: bool = False, noise_floor: float | None = None, positions: Positions = "samples"
) -> Tensor:
    """Return the effective rank ``exp(-Σ p log p)`` with ``p = σ / Σσ``, in ``[1, min(N, D)]``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero. Default: for half precision what
            rounding alone can produce, see :func:`rounding_noise`; otherwise nothing.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The effective rank, a float64 scalar; 0 for features that are all zero or empty, NaN if one is not finite.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> effective_rank(torch.eye(4)), effective_rank(torch.zeros(4, 4))
        (tensor(4., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    return _effective_rank(_spectrum(features, centered, noise_floor, positions))


def _effective_rank(sigma: Tensor) -> Tensor:
    share = _share(sigma)
    return (-share.xlogy(share).sum()).exp() * _any(sigma)


def _share(sigma: Tensor) -> Tensor:
    """Return ``σ / Σσ``; zeros for zeros."""
    total = sigma.sum()
    return sigma / total.where(total != 0, 1.0)


def _any(sigma: Tensor) -> Tensor:
    """Return 1 if there is a singular value above zero, else 0; NaN if there are NaN."""
    total = sigma.sum()
    return total.sign() + 0 * total


def _spectrum(features: Tensor, centered: bool, noise_floor: float | None, positions: Positions) -> Tensor:
    """Return the singular values ``[K]`` of features, those below the noise floor set to zero."""
    rows = as_samples(features, positions).double()
    if centered and rows.shape[0]:
        rows = rows - rows.mean(0)
    return _floored(singular_values(rows), rows.shape[0], rows.shape[1], rounding_unit(features.dtype), noise_floor)


def _floored(
    sigma: Tensor, samples: Tensor | int, features: int, epsilon: Tensor | float, noise_floor: float | None
) -> Tensor:
    if noise_floor is not None:
        floor = noise_floor * sigma[:1]
    else:
        is_half = epsilon > rounding_unit(torch.float32)
        floor = rounding_noise(sigma.norm(), samples, features, epsilon) * is_half
    return sigma.where(~(sigma <= floor), 0.0)
