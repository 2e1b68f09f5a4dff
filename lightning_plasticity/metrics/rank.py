"""Measures of rank as metrics: they add up over batches and processes what one decomposition at the end needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import check_number
from lightning_plasticity.functional import rank
from lightning_plasticity.metrics.factor import SpectralMetric


class EffectiveRank(SpectralMetric):
    """Effective rank ``exp(-Σ p log p)`` with ``p = σ / Σσ`` of features, in ``[1, min(N, D)]``.

    Args:
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> import torch
        >>> metric = EffectiveRank()
        >>> metric.update(torch.eye(4)[:1])
        >>> metric.update(torch.eye(4)[1:])
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._effective_rank(sigma)


class RankMe(SpectralMetric):
    """RankMe ``exp(-Σ p log p)`` with ``p = σ / Σσ + ε`` of features, in ``(0, min(N, D)]`` up to ``ε``.

    Args:
        epsilon: What is added to every share ``p``; the paper's value.
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
        their rank", ICML 2023, equation 1.

    Example:
        >>> import torch
        >>> metric = RankMe()
        >>> metric.update(torch.eye(4)[:1])
        >>> metric.update(torch.eye(4)[1:])
        >>> metric.compute()
        tensor(4.0000, dtype=torch.float64)
    """

    def __init__(self, epsilon: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("epsilon", epsilon, "[0, inf)")
        self.epsilon = epsilon

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._rank_me(sigma, self.epsilon)


class StableRank(SpectralMetric):
    """Stable rank ``‖X‖_F² / ‖X‖₂²`` of features, in ``[1, min(N, D)]``.

    What the Nature paper on loss of plasticity calls stable rank is :class:`ApproximateRank` with ``power=1``.

    Args:
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Rudelson and Vershynin, "Sampling from large matrices", Journal of the ACM 54, 2007.

    Example:
        >>> import torch
        >>> metric = StableRank()
        >>> metric.update(torch.diag(torch.tensor([2.0, 1.0, 1.0]))[:1])
        >>> metric.update(torch.diag(torch.tensor([2.0, 1.0, 1.0]))[1:])
        >>> metric.compute()
        tensor(1.5000, dtype=torch.float64)
    """

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._stable_rank(sigma)


class ParticipationRatio(SpectralMetric):
    """Participation ratio ``(Σλ)² / Σλ²`` with ``λ = σ²`` of features, in ``[1, min(N, D)]``.

    Args:
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017.

    Example:
        >>> import torch
        >>> metric = ParticipationRatio()
        >>> metric.update(torch.diag(torch.tensor([1.0, 1.0, 0.0]))[:1])
        >>> metric.update(torch.diag(torch.tensor([1.0, 1.0, 0.0]))[1:])
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._participation_ratio(sigma)


class ApproximateRank(SpectralMetric):
    """Fewest directions that hold a share of the spectrum, ``min{k: Σ_{i≤k} σ_iᵖ ≥ threshold · Σσᵖ}``.

    With ``power=1`` this is what the Nature paper on loss of plasticity calls stable rank, and Kumar et al. srank.

    Args:
        threshold: The share to hold, in ``(0, 1]``.
        power: The exponent ``p``: 2 for the share of the variance, 1 for the share of the singular values.
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``threshold`` or ``power`` is out of range.

    References:
        Yang et al., "Harnessing structures for value-based planning and reinforcement learning", ICLR 2020 (power 2).
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (power 1).

    Example:
        >>> import torch
        >>> metric = ApproximateRank(power=1)
        >>> metric.update(torch.diag(torch.tensor([10.0, 1.0, 0.5]))[:1])
        >>> metric.update(torch.diag(torch.tensor([10.0, 1.0, 0.5]))[1:])
        >>> metric.compute()
        tensor(3., dtype=torch.float64)
    """

    def __init__(self, threshold: float = 0.99, power: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("threshold", threshold, "(0, 1]")
        check_number("power", power, "[1, 2]", whole=True, remedy="Use 2 for variance, 1 for the Nature paper's rank")
        self.threshold, self.power = threshold, power

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._approximate_rank(sigma, self.threshold, self.power)


class NumericalRank(SpectralMetric):
    """Number of singular values of features above rounding, ``#{σ > tolerance · σ₁}``.

    Args:
        tolerance: Share of the largest singular value; default as in
            :func:`~lightning_plasticity.functional.numerical_rank`.
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Golub and Van Loan, "Matrix computations", 4th edition, section 5.4.1.

    Example:
        >>> import torch
        >>> metric = NumericalRank()
        >>> metric.update(torch.diag(torch.tensor([1.0, 1e-3, 1e-9]))[:1])
        >>> metric.update(torch.diag(torch.tensor([1.0, 1e-3, 1e-9]))[1:])
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, tolerance: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tolerance is not None:
            check_number("tolerance", tolerance, "[0, inf)")
        self.tolerance = tolerance

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._numerical_rank(sigma, self.tolerance, self.num_features, self.rounding)


class FeatureRank(SpectralMetric):
    """Number of directions of features with some spread, ``#{σ(X / √N) > epsilon}``.

    Args:
        epsilon: In the unit of the features; unlike the other ranks, this one depends on their scale.
        kwargs: ``centered``, ``noise_floor``, ``positions`` and ``max_features`` of
            :class:`~lightning_plasticity.metrics.factor.SpectralMetric`, and arguments of
            :class:`torchmetrics.Metric`.

    References:
        Lyle et al., "Understanding and preventing capacity loss in reinforcement learning", ICLR 2022, section 4.

    Example:
        >>> import torch
        >>> metric = FeatureRank()
        >>> metric.update(torch.diag(torch.tensor([1.0, 0.1, 1e-3]))[:1])
        >>> metric.update(torch.diag(torch.tensor([1.0, 0.1, 1e-3]))[1:])
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, epsilon: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("epsilon", epsilon, "[0, inf)")
        self.epsilon = epsilon

    @override
    def measure(self, sigma: Tensor) -> Tensor:
        return rank._feature_rank(sigma, self.samples, self.epsilon)
