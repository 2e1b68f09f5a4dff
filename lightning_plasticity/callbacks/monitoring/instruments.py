"""All that a monitor measures with: what it hears of features, of weights and of updates during one measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_plasticity.callbacks.monitoring.layers import WatchedLayer
from lightning_plasticity.callbacks.monitoring.meters import Values, WeightMeters, reads
from lightning_plasticity.callbacks.monitoring.taps import Taps
from lightning_plasticity.callbacks.monitoring.updates import UpdateMeters
from lightning_plasticity.callbacks.monitoring.writing import aggregates
from lightning_plasticity.metrics.base import Reads


class Measurement(NamedTuple):
    """What one measurement has found.

    Args:
        of_layers: Values by metric and layer.
        of_updates: Values that belong to no layer, by the name they are logged under.
        scores: Scores of the units by layer, if histograms are due.
        unseen: Layers that were watched and not heard.
    """

    of_layers: Values
    of_updates: dict[str, Tensor]
    scores: dict[str, Tensor]
    unseen: list[str]

    def means(self) -> dict[str, Tensor]:
        """Return one value per metric by the name it is logged under, the mean over layers if it has several."""
        return aggregates(self.of_layers, ["mean"]) | self.of_updates


class Instruments:
    """Listens to watched layers from the beginning of a fit to its end, and measures when asked to.

    Args:
        metrics: Metrics by name.
        layers: Where features are read.
        weights: Parameters by layer.
        initial: Their first values, from a checkpoint.
        pl_module: The module.
        max_samples: Samples per batch handed to metrics of rank.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        layers: Sequence[WatchedLayer],
        weights: Mapping[str, list[nn.Parameter]],
        initial: Mapping[str, list[Tensor]],
        pl_module: pl.LightningModule,
        max_samples: int,
    ) -> None:
        by_kind = {kind: {name: m for name, m in metrics.items() if reads(m) is kind} for kind in Reads}
        features, gradients = by_kind.pop(Reads.FEATURES), by_kind.pop(Reads.FEATURE_GRADIENTS)
        self.order = list(metrics)
        self.updates = UpdateMeters(by_kind.pop(Reads.LOSSES), pl_module)
        of_weights = {name: metric for kind in by_kind.values() for name, metric in kind.items()}
        self.weights = WeightMeters(of_weights, weights, initial)
        self.taps = Taps(layers, features, gradients, max_samples)
        self.taps.attach()
        self.began_at = -1
        self.remaining = 0  # batches until the end of the measurement that is under way

    def detach(self) -> None:
        """Remove all hooks."""
        self.taps.detach()

    def begin(self, step: int, batches: int, *, with_scores: bool) -> None:
        """Begin a measurement.

        Args:
            step: Optimizer steps so far.
            batches: Training batches it takes.
            with_scores: Whether the scores of the units are wanted.
        """
        self.began_at, self.remaining = step, batches
        self.taps.with_scores = with_scores
        self.weights.before_step()

    def before_batch(self, trainer: pl.Trainer, *, hears: bool) -> None:
        """Prepare for a training batch.

        Args:
            trainer: The Trainer.
            hears: Whether features come from training batches.
        """
        self.taps.is_open = hears and self.remaining > 0
        if self.remaining:
            self.updates.before_batch(trainer)

    def before_optimizer(self) -> None:
        """Look at the gradients of a measured step."""
        if self.remaining:
            self.weights.before_optimizer()

    def after_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in what a training batch of a measurement has done; see the hook of the same arguments."""
        self.taps.is_open = False
        if trainer.global_step > self.began_at:
            self.weights.after_step()
        self.updates.after_batch(trainer, pl_module, outputs, batch, batch_idx)
        self.remaining -= 1

    def end(self, trainer: pl.Trainer) -> Measurement:
        """End the measurement and return what it has found.

        Args:
            trainer: The Trainer; knows the optimizers.

        Returns:
            The values.
        """
        self.remaining = 0
        unseen = self.taps.unseen()
        values, scores = self.taps.compute()
        values |= self.weights.compute(trainer.optimizers)
        place = {name: i for i, name in enumerate(self.order)}
        ordered = sorted(values, key=lambda name: place.get(name, len(place)))  # one metric may give several names
        return Measurement({name: values[name] for name in ordered}, self.updates.compute(), scores, unseen)
