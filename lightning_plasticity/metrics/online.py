"""Online accuracy: how well a network does on samples just before it trains on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.functional.continual import area_under_curve, right_predictions
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


class OnlineAccuracy(PlasticityMetric):
    """Share of right predictions, online if every one was made before training on its sample; in ``[0, 1]``.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (online permuted MNIST).

    Example:
        >>> metric = OnlineAccuracy()
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    reads = Reads.PREDICTIONS
    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    right: Tensor
    predicted: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("predicted", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take in predictions made before training on their samples.

        Args:
            predictions: Classes ``[N]``, or scores of classes ``[N, C]``.
            targets: Classes ``[N]``.
        """
        right = right_predictions(predictions, targets)
        self.right = self.right + right.sum()
        self.predicted = self.predicted + len(right)

    @override
    def compute(self) -> Tensor:
        """Return the share of right predictions, a float64 scalar; NaN without samples."""
        return self.right.double() / self.predicted


class AreaUnderCurve(PlasticityMetric):
    """Mean height of a curve, by the trapezoidal rule: the area under it divided by its length.

    The points may come in any order. The value itself if there is one point, NaN if there is none.

    Args:
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = AreaUnderCurve()
        >>> for step, accuracy in ((200, 1.0), (0, 0.0), (100, 1.0)):
        ...     metric.update(torch.tensor(accuracy), step)
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    reads = Reads.PREDICTIONS
    higher_is_better = True

    curve: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("curve", [], dist_reduce_fx="cat")

    @override
    def update(self, value: Tensor | float, time: Tensor | float) -> None:
        """Take in a point of the curve.

        Args:
            value: A measure, such as the accuracy on a validation set.
            time: When it was measured, in steps, samples or experiences.
        """
        point = [torch.as_tensor(number, dtype=torch.float64, device=self.device) for number in (time, value)]
        self.curve.append(torch.stack(point)[None])

    @override
    def compute(self) -> Tensor:
        """Return the mean height, a float64 scalar."""
        times, values = self.one(self.curve).reshape(-1, 2).unbind(1)
        order = times.argsort()
        return area_under_curve(values[order], times[order])
