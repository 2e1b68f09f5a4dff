"""Measures of rank: how many directions the features of a layer use.

Letters: ``N`` samples, ``D`` features, ``K = min(N, D)`` singular values ``σ``, in descending order.

Every public function takes features; every private one of the same name takes their singular values, so that the
classes of :mod:`lightning_plasticity.metrics` share one decomposition. All return a float64 scalar: 0 for features
that are all zero, NaN if one is not finite or if there are none, as the means of torchmetrics are NaN without samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.functional.spectrum import Positions, as_samples, rounding_unit, spectrum


def effective_rank(
    features: Tensor,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the effective rank ``exp(-Σ p log p)`` with ``p = σ / Σσ``, in ``[1, K]``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The effective rank.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> effective_rank(torch.eye(4)), effective_rank(torch.zeros(4, 4))
        (tensor(4., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    return _effective_rank(spectrum(features, centered, noise_floor, positions))


def _effective_rank(sigma: Tensor) -> Tensor:
    share = _share(sigma)
    return (-share.xlogy(share).sum()).exp() * _any(sigma)


def rank_me(
    features: Tensor,
    epsilon: float = 1e-7,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return RankMe, ``exp(-Σ p log p)`` with ``p = σ / Σσ + ε``: the effective rank, smoothed.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        epsilon: What is added to every share ``p``; the paper's value.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        RankMe, in ``(0, K]`` up to ``epsilon``.

    References:
        Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
            their rank", ICML 2023, equation 1.

    Example:
        >>> rank_me(torch.eye(4))
        tensor(4.0000, dtype=torch.float64)
    """
    return _rank_me(spectrum(features, centered, noise_floor, positions), epsilon)


def _rank_me(sigma: Tensor, epsilon: float) -> Tensor:
    share = _share(sigma) + epsilon
    return (-share.xlogy(share).sum()).exp() * _any(sigma)


def stable_rank(
    features: Tensor,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the stable rank ``‖X‖_F² / ‖X‖₂²``, in ``[1, K]``.

    What the Nature paper on loss of plasticity calls stable rank is :func:`approximate_rank` with ``power=1``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The stable rank.

    References:
        Rudelson and Vershynin, "Sampling from large matrices", Journal of the ACM 54, 2007.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(1.5000, dtype=torch.float64)
    """
    return _stable_rank(spectrum(features, centered, noise_floor, positions))


def _stable_rank(sigma: Tensor) -> Tensor:
    power = _share(sigma).square()
    return _ratio(power.sum(), power[:1].sum())


def participation_ratio(
    features: Tensor,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the participation ratio ``(Σλ)² / Σλ²`` with ``λ = σ²``, in ``[1, K]``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The participation ratio.

    References:
        Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017.

    Example:
        >>> participation_ratio(torch.diag(torch.tensor([1.0, 1.0, 0.0])))
        tensor(2., dtype=torch.float64)
    """
    return _participation_ratio(spectrum(features, centered, noise_floor, positions))


def _participation_ratio(sigma: Tensor) -> Tensor:
    power = _share(sigma).square()
    return _ratio(power.sum().square(), power.square().sum())


def approximate_rank(
    features: Tensor,
    threshold: float = 0.99,
    power: int = 2,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the fewest directions that hold a share of the spectrum: ``min{k: Σ_{i≤k} σ_iᵖ ≥ threshold · Σσᵖ}``.

    With ``power=1`` this is what the Nature paper on loss of plasticity calls stable rank, and Kumar et al. srank.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        threshold: The share to hold, in ``(0, 1]``.
        power: The exponent ``p``: 2 for the share of the variance, 1 for the share of the singular values.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The approximate rank, a whole number.

    Raises:
        InvalidArgumentError: If ``threshold`` or ``power`` is out of range.

    References:
        Yang et al., "Harnessing structures for value-based planning and reinforcement learning", ICLR 2020 (power 2).
        Kumar et al., "Implicit under-parameterization inhibits data-efficient deep reinforcement learning", ICLR 2021;
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (power 1).

    Example:
        >>> x = torch.diag(torch.tensor([10.0, 1.0, 0.5]))
        >>> approximate_rank(x), approximate_rank(x, power=1)
        (tensor(2., dtype=torch.float64), tensor(3., dtype=torch.float64))
    """
    return _approximate_rank(spectrum(features, centered, noise_floor, positions), threshold, power)


def _approximate_rank(sigma: Tensor, threshold: float, power: int) -> Tensor:
    check_number("threshold", threshold, "(0, 1]")
    if power not in {1, 2}:
        raise InvalidArgumentError(f"power={power}", "1 or 2", "Use 2 for variance, 1 for the Nature paper's rank")
    held = _share(sigma).pow(power).cumsum(0)
    # A tie, such as 99 of 100 equal directions, must not depend on the last digit of the sum.
    count = 1 + (held < threshold * held[-1:] * (1 - 1e-12)).sum()
    return count * _any(sigma)


def numerical_rank(
    features: Tensor,
    tolerance: float | None = None,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the number of singular values above rounding, ``#{σ > tolerance · σ₁}``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        tolerance: Share of the largest singular value; default ``D`` times the spacing of the numbers of ``features``,
            which for ``N ≤ D`` is that of :func:`torch.linalg.matrix_rank`; nothing beyond the noise floor at half
            precision, where that product would exceed 1.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The numerical rank, a whole number.

    References:
        Golub and Van Loan, "Matrix computations", 4th edition, section 5.4.1.

    Example:
        >>> numerical_rank(torch.diag(torch.tensor([1.0, 1e-3, 1e-9])))
        tensor(2., dtype=torch.float64)
    """
    sigma = spectrum(features, centered, noise_floor, positions)
    return _numerical_rank(sigma, tolerance, features.shape[1], rounding_unit(features.dtype))


def _numerical_rank(sigma: Tensor, tolerance: float | None, size: int, epsilon: Tensor | float) -> Tensor:
    is_fine = epsilon <= rounding_unit(torch.float32)
    relative = size * epsilon * is_fine if tolerance is None else tolerance
    return (sigma > relative * sigma[:1]).sum() + 0 * sigma.sum()


def feature_rank(
    features: Tensor,
    epsilon: float = 0.01,
    *,
    centered: bool = False,
    noise_floor: float | None = None,
    positions: Positions = "samples",
) -> Tensor:
    """Return the number of directions with some spread, ``#{σ(X / √N) > epsilon}``.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        epsilon: The spread, in the unit of the features; unlike the other ranks, this one depends on their scale.
        centered: Subtract the mean of every feature first.
        noise_floor: Singular values up to this share of the largest count as zero; default: see :func:`spectrum`.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The feature rank, a whole number.

    References:
        Lyle et al., "Understanding and preventing capacity loss in reinforcement learning", ICLR 2022, section 4.

    Example:
        >>> feature_rank(torch.diag(torch.tensor([1.0, 0.1, 1e-3])))
        tensor(2., dtype=torch.float64)
    """
    samples = as_samples(features, positions).shape[0]
    return _feature_rank(spectrum(features, centered, noise_floor, positions), samples, epsilon)


def _feature_rank(sigma: Tensor, samples: Tensor | int, epsilon: float) -> Tensor:
    spread = torch.as_tensor(samples, dtype=sigma.dtype, device=sigma.device).sqrt() * epsilon
    return (sigma > spread).sum() + 0 * sigma.sum()


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, 0 where both are 0."""
    return numerator / denominator.where(denominator != 0, 1.0)


def _share(sigma: Tensor) -> Tensor:
    """Return ``σ / Σσ``; zeros for zeros."""
    return _ratio(sigma, sigma.sum())


def _any(sigma: Tensor) -> Tensor:
    """Return 1 if there is a singular value above zero, else 0; NaN if there are NaN."""
    total = sigma.sum()
    return total.sign() + 0 * total
