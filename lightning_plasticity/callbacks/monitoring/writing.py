"""Write measurements to the loggers of a Trainer: scalars to all, charts and histograms to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_plasticity.callbacks.monitoring.meters import Values
from lightning_plasticity.callbacks.unit_replacement import UnitReplacement

PREFIX = "plasticity"

Aggregate = Literal["mean", "min", "max"]
"""What the layers have in common in a measurement; logged in the place of a layer's name."""

AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


def aggregates(values: Values, kinds: Iterable[Aggregate]) -> dict[str, Tensor]:
    """Return what the layers have in common: ``plasticity/<metric>/<kind>`` over all layers.

    Args:
        values: Values by metric and layer.
        kinds: Some of :data:`AGGREGATES`.

    Returns:
        Scalars by the name they are logged under.
    """
    found: dict[str, Tensor] = {}
    for metric, layers in values.items():
        stacked = torch.stack([value.detach().double().cpu() for value in layers.values()])
        functions: dict[Aggregate, Callable[[], Tensor]] = {
            "mean": stacked.mean,
            "min": stacked.amin,
            "max": stacked.amax,
        }
        found |= {f"{PREFIX}/{metric}/{kind}": functions[kind]() for kind in kinds}
    return found


def write_scalars(trainer: pl.Trainer, values: Values, extra: Mapping[str, Tensor | float], step: int) -> None:
    """Log scalars to all loggers.

    Args:
        trainer: The Trainer.
        values: Values by metric and layer.
        extra: Further scalars by the name they are logged under.
        step: The step they are logged at.
    """
    scalars = {f"{PREFIX}/{m}/{layer}": float(v) for m, layers in values.items() for layer, v in layers.items()}
    scalars |= {name: float(value) for name, value in extra.items()}
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=step)


@rank_zero_only
def write_layout(trainer: pl.Trainer, values: Values, alone: Iterable[str], aggregate: Sequence[Aggregate]) -> None:
    """Arrange TensorBoard's custom scalars: charts of the aggregates first, then one per metric with all layers.

    Args:
        trainer: The Trainer.
        values: Values by metric and layer.
        alone: Names of scalars that belong to no layer.
        aggregate: The aggregates that are logged; of all three, the mean is drawn within a band from min to max.
    """
    whole: dict[str, list[object]] = {name.split("/")[1]: ["Multiline", [name]] for name in alone}
    if aggregate:
        is_band = set(AGGREGATES) <= set(aggregate)
        kind, shown = ("Margin", list(AGGREGATES)) if is_band else ("Multiline", list(aggregate))
        title = "mean, min to max" if is_band else ", ".join(shown)
        whole |= {f"{metric}: {title}": [kind, [f"{PREFIX}/{metric}/{name}" for name in shown]] for metric in values}
    by_layer: dict[str, list[object]] = {
        metric: ["Multiline", [f"{PREFIX}/{metric}/{layer}" for layer in layers]] for metric, layers in values.items()
    }
    pages = {"plasticity of the network": whole, "plasticity of every layer": by_layer}
    # TensorBoard shows the charts of a page from the last to the first.
    layout = {page: dict(reversed(charts.items())) for page, charts in pages.items() if charts}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars(layout)


@rank_zero_only
def write_histograms(trainer: pl.Trainer, histograms: Mapping[str, Tensor], step: int) -> None:
    """Log histograms to TensorBoard.

    Args:
        trainer: The Trainer.
        histograms: Numbers per unit by the name they are logged under; those that are not finite are left out.
        step: The step they are logged at.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, numbers in histograms.items():
                finite = numbers[numbers.isfinite()].cpu()
                if len(finite):
                    logger.experiment.add_histogram(f"{PREFIX}/{name}", finite, step)


def utilities(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Return the running utility of all units that a callback of the Trainer replaces by utility.

    Args:
        trainer: The Trainer.

    Returns:
        Utilities ``[U]`` by the name they are logged under.
    """
    callbacks: Sequence[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    replacers = [c.replacer for c in callbacks if isinstance(c, UnitReplacement) and c.replacer is not None]
    pairs = [pair for r in replacers for pair in zip(r.groups, r.memory.parts, strict=True)]
    return {f"utility/{group.name}": memory["utility"] for group, memory in pairs if "utility" in memory}


def has_histograms(trainer: pl.Trainer) -> bool:
    """Return whether a logger of the Trainer draws histograms."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
