"""Check the arguments of a monitor, and turn names into metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature

from torchmetrics import Metric

from lightning_plasticity import metrics as library
from lightning_plasticity.callbacks.monitoring.meters import reads
from lightning_plasticity.callbacks.monitoring.writing import AGGREGATES
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


def available_metrics() -> dict[str, type[PlasticityMetric]]:
    """Return the metrics that a monitor knows by name.

    Returns:
        Classes by name: ``"effective_rank"`` for :class:`~lightning_plasticity.metrics.EffectiveRank`, and so on.
    """
    classes = [vars(library)[name] for name in library.__all__]
    known = [each for each in classes if issubclass(each, PlasticityMetric) and each.reads is not Reads.PREDICTIONS]
    return {_snake_case(each.__name__): each for each in known}


def named_metrics(metrics: Sequence[str | Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Return metrics by name, those given by name with their default arguments.

    Args:
        metrics: Names and metrics, or metrics by names of the user's choice.

    Returns:
        Metrics by the name under which they are logged.

    Raises:
        InvalidArgumentError: If there is none, or something else, or a name is unknown or stands for two metrics.
    """
    values = metrics.values() if isinstance(metrics, Mapping) else metrics
    kinds = (Metric,) if isinstance(metrics, Mapping) else (str, Metric)
    is_several = isinstance(values, Collection) and not isinstance(values, str)
    if not (is_several and values and all(isinstance(each, kinds) for each in values)):
        raise InvalidArgumentError(
            f"metrics={metrics!r}",
            "a list of names, such as ['effective_rank'], or of metrics",
            "Put a single one in a list, and pass `EffectiveRank()` rather than the class",
        )
    if isinstance(metrics, Mapping):
        return dict(metrics)
    known = available_metrics()
    named: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric not in known:
            close = get_close_matches(_snake_case(metric), known, 1)
            remedy = f"Did you mean {close[0]!r}?" if close else "Correct `metrics`"
            raise InvalidArgumentError(f"metric {metric!r}", f"one of {sorted(known)}", remedy)
        name = metric if isinstance(metric, str) else _snake_case(type(metric).__name__)
        if name in named:
            raise InvalidArgumentError(
                f"two metrics named {name!r}", "a name for each", "Pass a mapping from names of your choice to metrics"
            )
        named[name] = known[metric]() if isinstance(metric, str) else metric
    return named


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def check_aggregates(aggregate: Sequence[str]) -> None:
    """Refuse aggregates over layers that there are not.

    Args:
        aggregate: The argument.

    Raises:
        InvalidArgumentError: If it is a single word, or holds another than :data:`~.writing.AGGREGATES`.
    """
    is_several = isinstance(aggregate, Collection) and not isinstance(aggregate, str)
    if not (is_several and all(each in AGGREGATES for each in aggregate)):
        raise InvalidArgumentError(
            f"aggregate={aggregate!r}", f"some of {AGGREGATES}", "Pass a tuple, such as `('mean', 'max')`"
        )


def check_sources(one: Mapping[str, object], other: Mapping[str, object]) -> None:
    """Refuse arguments that exclude each other.

    Args:
        one: Arguments by name; None is not given.
        other: Those that say something else about the same.

    Raises:
        InvalidArgumentError: If there is one of either kind.
    """
    given, contrary = ([f"`{name}`" for name, value in each.items() if value is not None] for each in (one, other))
    if given and contrary:
        raise InvalidArgumentError(
            f"{' and '.join(given + contrary)}",
            f"either {' and '.join(given)} or {' and '.join(contrary)}, which would have no effect",
            f"Leave out {' and '.join(contrary)}",
        )


def check_periods(every_n_steps: int | None, histogram_every_n_steps: int | None, *, has_ends: bool) -> None:
    """Refuse a monitor that never measures, and histograms between measurements.

    Args:
        every_n_steps: Steps between measurements.
        histogram_every_n_steps: Steps between histograms.
        has_ends: Whether there are also measurements at ends of epochs or experiences.

    Raises:
        InvalidArgumentError: If the periods do not fit together.
    """
    if every_n_steps is None and not has_ends:
        raise InvalidArgumentError(
            "a monitor that never measures", "a period or an end", "Pass `every_n_steps=` or `epoch_ends=True`"
        )
    every = histogram_every_n_steps
    if every is not None and (every_n_steps is None or every % every_n_steps):
        raise InvalidArgumentError(
            f"histogram_every_n_steps={every}",
            f"a multiple of every_n_steps={every_n_steps}",
            "Draw histograms when there is a measurement",
        )


def check_metrics(metrics: Mapping[str, Metric], progress_bar: Iterable[str], *, has_probe: bool) -> None:
    """Refuse metrics that a monitor cannot feed, and a progress bar of metrics that are not measured.

    Args:
        metrics: Metrics by name.
        progress_bar: Names of metrics.
        has_probe: Whether features come from a probe.

    Raises:
        InvalidArgumentError: If there is one of them.
    """
    for name, metric in metrics.items():
        own = isinstance(metric, PlasticityMetric)
        if reads(metric) is Reads.PREDICTIONS or not (own or _takes_one(metric.update)):
            raise InvalidArgumentError(
                f"metric {name!r}, which is updated with ({', '.join(signature(metric.update).parameters)})",
                f"a measure of layers, such as {sorted(available_metrics())}, or one updated with features alone",
                "Update it in `training_step` and log it there",
            )
        if reads(metric) is Reads.FEATURE_GRADIENTS and has_probe:
            raise InvalidArgumentError(
                f"metric {name!r} with a `probe`, on which no loss is known",
                "a metric that needs no gradients of activations",
                "Leave out `probe`, or use a second PlasticityMonitor for this metric",
            )
    for name in progress_bar:
        if name not in metrics:
            raise InvalidArgumentError(
                f"{name!r} in `progress_bar`", f"some of {sorted(metrics)}", "Add it to `metrics` as well"
            )


def _takes_one(update: Callable[..., object]) -> bool:
    """Return whether a function can be called with one argument."""
    try:
        signature(update).bind(None)
    except TypeError:
        return False
    return True
