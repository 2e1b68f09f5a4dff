"""Measures of weights as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.metrics.base import PlasticityMetric


class WeightMetric(PlasticityMetric):
    """Base of the metrics that are updated with weights instead of activations."""

    plot_lower_bound = 0.0


class WeightMagnitude(WeightMetric):
    """Mean magnitude of all entries of the weights, in ``[0, ∞)``; 0 if there are none.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = WeightMagnitude()
        >>> metric.update(torch.tensor([-1.0, 3.0]))
        >>> metric.update([torch.tensor([[2.0]])])
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    weight_total: Tensor
    weight_entries: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("weight_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight_entries", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, weights: Tensor | Iterable[Tensor]) -> None:
        """Take in weights.

        Args:
            weights: A tensor, or several, of any shapes.
        """
        for weight in [weights] if isinstance(weights, Tensor) else weights:
            self.weight_total = self.weight_total + weight.detach().abs().sum(dtype=torch.float64)
            self.weight_entries = self.weight_entries + weight.numel()

    @override
    def compute(self) -> Tensor:
        """Return the mean magnitude, a float64 scalar."""
        return self.weight_total / self.weight_entries.clamp(min=1)
