"""Values under Avalanche's own kind of name."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import phase_and_task, stream_type


def metric_value(metric: PluginMetric[Any], strategy: Any, name: str, value: float, *, experience: bool) -> MetricValue:
    """A value under Avalanche's own kind of name; a Python number, since loggers draw tensors as histograms."""
    phase, _ = phase_and_task(strategy)
    full = f"{name}/{phase}_phase/{stream_type(strategy.experience)}_stream"
    if experience:
        full += f"/Exp{strategy.experience.current_experience:03d}"
    return MetricValue(metric, full, value, strategy.clock.train_iterations)
