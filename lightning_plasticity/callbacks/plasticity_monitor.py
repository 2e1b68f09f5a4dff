"""Log measures of plasticity for every layer while a Trainer fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric
from typing_extensions import override

from lightning_plasticity.callbacks.example import find_units, has_example
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.metrics import DormantUnitRatio, EffectiveRank, WeightMagnitude
from lightning_plasticity.metrics.weights import WeightMagnitude as WeightMetric
from lightning_plasticity.units import UnitGroup, UnitMap

METRICS: Mapping[str, Callable[[], Metric]] = {
    "effective_rank": EffectiveRank,
    "dormant_unit_ratio": DormantUnitRatio,
    "weight_magnitude": WeightMagnitude,
}


class PlasticityMonitor(pl.Callback):
    """Log ``plasticity/<metric>/<layer>`` for every layer of units, to all loggers of the Trainer.

    After every ``every_n_steps`` optimizer steps the activations of the next training batches, and the weights behind
    them, are measured. Nothing of the training is changed: weights are bit-identical with and without the monitor.

    Args:
        every_n_steps: Optimizer steps between measurements; the first is made before the first step.
        metrics: Names of measures, see ``lightning_plasticity.callbacks.plasticity_monitor.METRICS``.
        batches: Training batches per measurement. A rank cannot exceed the number of samples it is measured on.
        include: Patterns of layers to watch, as in file names, such as ``"encoder.*"``; default: all.
        exclude: Patterns of layers to leave out.
        example_input: Input for the forward pass that finds the units; default ``pl_module.example_input_array``,
            else the first training batch.

    Raises:
        InvalidArgumentError: If a metric is unknown, or a number is not positive.

    Example:
        >>> monitor = PlasticityMonitor(every_n_steps=100)
        >>> trainer = pl.Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        metrics: Sequence[str] = ("effective_rank", "dormant_unit_ratio", "weight_magnitude"),
        *,
        batches: int = 10,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        example_input: Tensor | None = None,
    ) -> None:
        for name, number in (("every_n_steps", every_n_steps), ("batches", batches)):
            if number < 1:
                raise InvalidArgumentError(f"{name}={number}", "a number of at least 1", f"Correct `{name}`")
        for metric in metrics:
            if metric not in METRICS:
                raise InvalidArgumentError(f"metric {metric!r}", f"one of {sorted(METRICS)}", "Correct `metrics`")
        self.every_n_steps, self.metrics, self.batches = every_n_steps, tuple(metrics), batches
        self.include, self.exclude, self.example_input = include, exclude, example_input
        self._units: UnitMap | None = None
        self._meters: dict[str, dict[str, Metric]] = {}
        self._handles: list[RemovableHandle] = []
        self._missing = 0
        self._measured_at = -1

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._units, self._measured_at = None, -1
        if has_example(pl_module, self.example_input):
            self._find(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._units is None:
            self._find(trainer, pl_module, batch)
        step = trainer.global_step
        if not self._missing and step % self.every_n_steps == 0 and step != self._measured_at:
            self._measured_at = step
            self._missing = self.batches
        if self._missing:
            self._watch(pl_module.device)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._missing:
            return
        self._unwatch()
        self._missing -= 1
        if not self._missing:
            self._log(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._missing and self._meters:
            self._log(trainer)
        self._missing = 0

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._unwatch()

    def _find(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any = None) -> None:
        self._units = find_units(
            trainer,
            pl_module,
            self.example_input,
            batch,
            include=self.include,
            exclude=self.exclude,
            residual="group",
        )

    def _watch(self, device: torch.device) -> None:
        for group in self._units or ():
            if group.tap is not None:
                meters = self._meters.setdefault(group.name, self._features_meters(device))
                self._handles.append(group.tap.watch(_listener(group, meters)))

    def _features_meters(self, device: torch.device) -> dict[str, Metric]:
        meters = {name: METRICS[name]().to(device) for name in self.metrics}
        return {name: meter for name, meter in meters.items() if not isinstance(meter, WeightMetric)}

    def _unwatch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _log(self, trainer: pl.Trainer) -> None:
        values = {
            f"plasticity/{name}/{layer}": meter.compute()
            for layer, meters in self._meters.items()
            for name, meter in meters.items()
            if meter.update_called
        }
        for layer, weights in _weights(self._units or ()).items():
            for name in self.metrics:
                meter = METRICS[name]()
                if isinstance(meter, WeightMetric):
                    meter.to(weights[0].device).update(weights)
                    values[f"plasticity/{name}/{layer}"] = meter.compute()
        self._meters.clear()
        scalars = {name: float(value) for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.fit_loop.epoch_loop._batches_that_stepped)


def _listener(group: UnitGroup, meters: Mapping[str, Metric]) -> Callable[[Tensor], None]:
    """Return a function that hands the activation of the units, every position a sample, to the meters."""
    tap = group.tap
    assert tap is not None  # ruff: ignore[assert] - groups without a tap are not listened to

    @torch.no_grad()
    def listen(activation: Tensor) -> None:
        samples = tap.samples(activation.detach())[:, tap.index.to(activation.device)]  # [N, U, K]
        for meter in meters.values():
            meter.update(samples)

    return listen


def _weights(groups: UnitMap | Sequence[UnitGroup]) -> dict[str, list[Tensor]]:
    """Return the weights that write or read units, by layer, in the order of the model."""
    layers: dict[str, dict[str, Tensor]] = {}
    for group in groups:
        for slot in group.incoming + group.outgoing:
            if slot.kind == "weight":
                layers.setdefault(slot.path.rpartition(".")[0], {})[slot.name] = slot.tensor
    return {layer: list(tensors.values()) for layer, tensors in layers.items()}
