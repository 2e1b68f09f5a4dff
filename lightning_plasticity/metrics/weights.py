"""Measures of weights, gradients and optimizer state as metrics.

But for :class:`WeightMagnitude`, which adds up entries, a metric is the mean over its updates: one update is one look
at the weights of a layer, and processes that hold the same weights agree with each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.functional import weights as functional
from lightning_plasticity.functional.weights import Weights
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


class WeightMagnitude(PlasticityMetric):
    """Mean magnitude of all entries of weights, in ``[0, ∞)``; NaN if there are none.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = WeightMagnitude()
        >>> metric.update(torch.tensor([-1.0, 3.0]))
        >>> metric.update([torch.tensor([[2.0]])])
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    reads = Reads.WEIGHTS
    plot_lower_bound = 0.0

    magnitude_total: Tensor
    entries: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("magnitude_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("entries", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, weights: Weights) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, of any shapes.
        """
        tensors = functional.as_tensors(weights)
        total = functional.total(tensor.abs().sum(dtype=torch.float64) for tensor in tensors)
        self.magnitude_total = self.magnitude_total + total.to(self.magnitude_total.device)
        self.entries = self.entries + sum(tensor.numel() for tensor in tensors)

    @override
    def compute(self) -> Tensor:
        """Return the mean magnitude, a float64 scalar."""
        return self.magnitude_total / self.entries


class WeightMetric(PlasticityMetric):
    """Base of the metrics that are the mean of a number over their updates; NaN without any.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    reads = Reads.WEIGHTS
    plot_lower_bound = 0.0

    looks: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The name keeps torchmetrics from taking two of these metrics for one because their first values agree.
        self._total_name = f"total_of_{type(self).__name__}"
        self.add_state(self._total_name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("looks", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, value: Tensor) -> None:
        total: Tensor = getattr(self, self._total_name)
        setattr(self, self._total_name, total + value.to(total.device))
        self.looks = self.looks + 1

    @override
    def compute(self) -> Tensor:
        """Return the mean over the updates, a float64 scalar."""
        total: Tensor = getattr(self, self._total_name)
        return total / self.looks


class WeightNorm(WeightMetric):
    """Euclidean norm of all entries of weights, ``√Σw²``.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = WeightNorm()
        >>> metric.update(torch.tensor([3.0, 4.0]))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    @override
    def update(self, weights: Weights) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, of any shapes.
        """
        self._add(functional.weight_norm(weights))


class SpectralNorm(WeightMetric):
    """Largest singular value of weight matrices.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = SpectralNorm()
        >>> metric.update(torch.diag(torch.tensor([3.0, 1.0])))
        >>> metric.compute()
        tensor(3., dtype=torch.float64)
    """

    @override
    def update(self, weights: Weights) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, ``[out, *in]``.
        """
        self._add(functional.spectral_norm(weights))


class WeightEffectiveRank(WeightMetric):
    """Effective rank of weight matrices, the mean if there are several, in ``[1, min(out, in)]``.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = WeightEffectiveRank()
        >>> metric.update(torch.eye(4))
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    @override
    def update(self, weights: Weights) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, ``[out, *in]``.
        """
        self._add(functional.weight_effective_rank(weights))


class DistanceFromInitialization(WeightMetric):
    """Euclidean distance ``‖θ - θ₀‖`` of weights from those they started with.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = DistanceFromInitialization()
        >>> metric.update(torch.tensor([3.0, 4.0]), torch.zeros(2))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    reads = Reads.WEIGHTS_AND_INITIAL

    @override
    def update(self, weights: Weights, initial: Weights) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, of any shapes.
            initial: The first values, in the same order and of the same shapes.
        """
        self._add(functional.distance_from_initialization(weights, initial))


class UpdateRatio(WeightMetric):
    """How far a step moves weights, relative to their size: ``‖θ - θ'‖ / ‖θ'‖``, in ``[0, ∞]``.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = UpdateRatio()
        >>> metric.update(torch.tensor([1.5, 0.0]), torch.tensor([1.0, 0.0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    reads = Reads.WEIGHTS_AND_PREVIOUS

    @override
    def update(self, weights: Weights, previous: Weights) -> None:
        """Take in weights after a step.

        Args:
            weights: A tensor, or several, of any shapes.
            previous: The weights before the step, in the same order and of the same shapes.
        """
        self._add(functional.update_ratio(weights, previous))


class GradientNorm(WeightMetric):
    """Euclidean norm of gradients.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = GradientNorm()
        >>> metric.update(torch.tensor([3.0, 4.0]))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    reads = Reads.WEIGHT_GRADIENTS

    @override
    def update(self, gradients: Weights) -> None:
        """Take in gradients.

        Args:
            gradients: A tensor, or several, of any shapes.
        """
        self._add(functional.gradient_norm(gradients))


class ZeroGradientShare(WeightMetric):
    """Share of the entries of gradients that are exactly zero, in ``[0, 1]``.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = ZeroGradientShare()
        >>> metric.update(torch.tensor([0.0, 1.0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    reads = Reads.WEIGHT_GRADIENTS

    @override
    def update(self, gradients: Weights) -> None:
        """Take in gradients.

        Args:
            gradients: A tensor, or several, of any shapes.
        """
        self._add(functional.zero_gradient_share(gradients))


class OptimizerStateNorm(WeightMetric):
    """Euclidean norm of what an optimizer keeps per entry, such as one of Adam's moments.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = OptimizerStateNorm()
        >>> metric.update(torch.tensor([3.0, 4.0]))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    reads = Reads.OPTIMIZER_STATE

    @override
    def update(self, states: Weights) -> None:
        """Take in the state of parameters.

        Args:
            states: A tensor, or several, of any shapes.
        """
        self._add(functional.weight_norm(states))
