"""Measures of plasticity as Avalanche plugin metrics.

As with Avalanche's own metrics, a helper per measure returns a list for the ``EvaluationPlugin``; values appear per
layer, under names such as ``EffectiveRank_Exp/fc1``, in every logger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from lightning_plasticity.avalanche.naming import metric_value
from lightning_plasticity.errors import InvalidArgumentError, check_flags, check_number
from lightning_plasticity.metrics import DormantUnitRatio, EffectiveRank
from lightning_plasticity.units import UnitGroup, discover_units

Period = Literal["minibatch", "epoch", "experience", "stream"]
_SUFFIX = {"minibatch": "MB", "epoch": "Epoch", "experience": "Exp", "stream": "Stream"}


class LayerMetric(PluginMetric[dict[str, float]]):
    """A measure of the activations of every layer's units, over the training mini-batches of a period.

    Args:
        name: Display name, such as ``"EffectiveRank"``.
        make: Returns a fresh metric; its ``update`` takes activations, ``[N, U, K]``.
        period: When values are emitted; the metric starts anew afterwards.
    """

    def __init__(self, name: str, make: Callable[[], Metric], period: Period) -> None:
        super().__init__()
        self._name, self._make, self._period = name, make, period
        self._metrics: dict[str, Metric] = {}
        self._handles: list[RemovableHandle] = []

    def __str__(self) -> str:
        return f"{self._name}_{_SUFFIX[self._period]}"

    def result(self) -> dict[str, float]:
        """Return the value of every layer that was seen since the last reset, by the name of its units."""
        return {name: float(m.compute()) for name, m in self._metrics.items() if m.update_called}

    def reset(self) -> None:
        """Forget all that was seen."""
        for metric in self._metrics.values():
            metric.reset()

    def before_training_iteration(self, strategy: Any) -> None:
        """Find the units with the first mini-batch of an experience.

        Args:
            strategy: The strategy.
        """
        if self._handles:
            return
        units = discover_units(strategy.model, strategy.forward, residual="group")
        known = self._metrics
        self._metrics = {}
        for group in units:
            if group.tap is not None:
                fits = group.name in known and self._period == "stream"
                self._metrics[group.name] = known[group.name] if fits else self._make().to(strategy.device)
                self._handles.append(group.tap.watch(self._listener(group)))

    def _listener(self, group: UnitGroup) -> Callable[[Tensor], None]:
        tap, metric = group.tap, self._metrics[group.name]
        assert tap is not None  # noqa: S101 - only tapped groups are watched

        def listen(activation: Tensor) -> None:
            if tap.module.training and torch.is_grad_enabled():
                metric.update(tap.samples(activation.detach())[:, tap.index.to(activation.device)])

        return listen

    def after_training_iteration(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is a mini-batch."""
        return self._emit(strategy, "minibatch")

    def after_training_epoch(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is an epoch."""
        return self._emit(strategy, "epoch")

    def after_training_exp(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is an experience; stop watching, since the model may change before the next."""
        while self._handles:
            self._handles.pop().remove()
        return self._emit(strategy, "experience")

    def after_training(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is the whole stream."""
        return self._emit(strategy, "stream")

    def _emit(self, strategy: Any, period: Period) -> list[MetricValue] | None:
        if period != self._period:
            return None
        values = [
            metric_value(self, strategy, f"{self}/{layer}", value, experience=period == "experience")
            for layer, value in self.result().items()
        ]
        self.reset()
        return values


class WeightMagnitude(PluginMetric[dict[str, float]]):
    """Mean absolute weight of every parameter with two or more dimensions, at the end of a period.

    Args:
        period: When values are emitted.
    """

    def __init__(self, period: Period) -> None:
        super().__init__()
        self._period = period
        self._values: dict[str, float] = {}

    def __str__(self) -> str:
        return f"WeightMagnitude_{_SUFFIX[self._period]}"

    def result(self) -> dict[str, float]:
        """Return the last values, by the name of the parameter."""
        return dict(self._values)

    def reset(self) -> None:
        """Forget the last values."""
        self._values = {}

    def after_training_iteration(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is a mini-batch."""
        return self._emit(strategy, "minibatch")

    def after_training_epoch(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is an epoch."""
        return self._emit(strategy, "epoch")

    def after_training_exp(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is an experience."""
        return self._emit(strategy, "experience")

    def after_training(self, strategy: Any) -> list[MetricValue] | None:
        """Emit, if the period is the whole stream."""
        return self._emit(strategy, "stream")

    def _emit(self, strategy: Any, period: Period) -> list[MetricValue] | None:
        if period != self._period:
            return None
        parameters = {n: p for n, p in strategy.model.named_parameters() if p.ndim > 1}
        self._values = {n: float(p.detach().abs().mean()) for n, p in parameters.items()}
        return [
            metric_value(self, strategy, f"{self}/{name}", value, experience=period == "experience")
            for name, value in self._values.items()
        ]


def effective_rank_metrics(
    *, minibatch: bool = False, epoch: bool = False, experience: bool = False, stream: bool = False
) -> list[PluginMetric[Any]]:
    """Return metrics of the effective rank of every layer's activations.

    Args:
        minibatch: Whether to emit after every mini-batch.
        epoch: Whether to emit after every epoch.
        experience: Whether to emit after every experience.
        stream: Whether to emit after training on the stream.

    Returns:
        One plugin metric per period.

    Raises:
        InvalidArgumentError: If no period is chosen, since nothing would be logged then.

    Example:
        >>> [str(metric) for metric in effective_rank_metrics(epoch=True, experience=True)]
        ['EffectiveRank_Epoch', 'EffectiveRank_Exp']
    """
    return [
        LayerMetric("EffectiveRank", EffectiveRank, period) for period in _chosen(minibatch, epoch, experience, stream)
    ]


def dormant_unit_ratio_metrics(
    *,
    threshold: float = 0.025,
    minibatch: bool = False,
    epoch: bool = False,
    experience: bool = False,
    stream: bool = False,
) -> list[PluginMetric[Any]]:
    """Return metrics of the share of dormant units in every layer.

    Args:
        threshold: A unit is dormant if its activation, relative to the layer's mean, is at most this.
        minibatch: Whether to emit after every mini-batch.
        epoch: Whether to emit after every epoch.
        experience: Whether to emit after every experience.
        stream: Whether to emit after training on the stream.

    Returns:
        One plugin metric per period.

    Raises:
        InvalidArgumentError: If no period is chosen, since nothing would be logged then.
    """
    check_number("threshold", threshold, "[0, inf)")
    make = partial(DormantUnitRatio, threshold)
    return [LayerMetric("DormantUnitRatio", make, period) for period in _chosen(minibatch, epoch, experience, stream)]


def weight_magnitude_metrics(
    *, minibatch: bool = False, epoch: bool = False, experience: bool = False, stream: bool = False
) -> list[PluginMetric[Any]]:
    """Return metrics of the mean absolute weight of every layer.

    Args:
        minibatch: Whether to emit after every mini-batch.
        epoch: Whether to emit after every epoch.
        experience: Whether to emit after every experience.
        stream: Whether to emit after training on the stream.

    Returns:
        One plugin metric per period.

    Raises:
        InvalidArgumentError: If no period is chosen, since nothing would be logged then.
    """
    return [WeightMagnitude(period) for period in _chosen(minibatch, epoch, experience, stream)]


def _chosen(minibatch: bool, epoch: bool, experience: bool, stream: bool) -> Sequence[Period]:
    asked: dict[Period, bool] = {"minibatch": minibatch, "epoch": epoch, "experience": experience, "stream": stream}
    check_flags(**asked)
    if not any(asked.values()):
        raise InvalidArgumentError(
            "a metric that is never emitted", f"at least one of {', '.join(asked)}", "Pass `experience=True`, say"
        )
    return [period for period, is_asked in asked.items() if is_asked]
