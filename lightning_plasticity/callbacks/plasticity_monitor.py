"""Log measures of plasticity for every layer while a Trainer fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_plasticity.callbacks.example import find_units, has_example
from lightning_plasticity.callbacks.experience import experience_ends, stream_of
from lightning_plasticity.callbacks.monitoring.arguments import (
    check_aggregates,
    check_metrics,
    check_periods,
    check_sources,
    named_metrics,
)
from lightning_plasticity.callbacks.monitoring.instruments import Instruments, Measurement
from lightning_plasticity.callbacks.monitoring.layers import watched_groups, watched_modules, weights_of
from lightning_plasticity.callbacks.monitoring.meters import reads
from lightning_plasticity.callbacks.monitoring.notices import warn_unlogged, warn_unread, warn_unseen
from lightning_plasticity.callbacks.monitoring.probe import Probe, run_probe
from lightning_plasticity.callbacks.monitoring.writing import (
    Aggregate,
    aggregates,
    has_histograms,
    utilities,
    write_histograms,
    write_layout,
    write_scalars,
)
from lightning_plasticity.callbacks.steps import logged_step, publish
from lightning_plasticity.errors import UnsupportedModelError, check_counts, check_flags
from lightning_plasticity.metrics.base import Reads
from lightning_plasticity.units import UnitGroup, UnitMap
from lightning_plasticity.units.patterns import Patterns, as_patterns, include_exclude

DEFAULT_METRICS = ("effective_rank", "dormant_unit_ratio", "dead_unit_ratio", "weight_magnitude")


class PlasticityMonitor(pl.Callback):
    """Log ``plasticity/<metric>/<layer>`` for every layer, and aggregates over layers, to all loggers of the Trainer.

    Layers are the unit groups of the model, each read where its units are consumed, or modules chosen by name. Nothing
    of the training is changed: weights are bit-identical with and without the monitor, and no hook is left behind.

    A measurement begins before the training batch at which the number of optimizer steps is a multiple of
    ``every_n_steps``, the first one before the first step. Its features are those of the next ``batches`` training
    batches, as the network computes them in training mode, or of ``probe``, in evaluation mode. It is logged at its
    end, at the step at which Lightning logs that batch; if a fit ends before its first measurement does, what that one
    has seen is logged. TensorBoard also gets a page of custom scalars with one chart per metric, and histograms.

    ``plasticity/sample_plasticity`` belongs to no layer, and costs a second ``training_step`` on the batches measured.

    Args:
        every_n_steps: Optimizer steps between measurements; None for none between the ends below.
        metrics: Names (``"effective_rank"`` for ``EffectiveRank``, and so on for every metric of layers), or
            metrics, also of others if they are updated with features, perhaps in a mapping from names.
        epoch_ends: Also measure at the end of every epoch.
        experience_ends: Also measure at the end of every experience of a
            :class:`~lightning_plasticity.streams.StreamDataModule`, whose number is then logged as
            ``plasticity/experience``.
        batches: Training batches per measurement; None for 10, or ``every_n_steps`` if that is less, so that
            measurements do not run into each other. No rank can exceed the number of samples it is measured on.
        probe: Fixed samples to measure on instead of ``batches``: a tensor or an iterable of batches, such as a
            ``DataLoader``.
        layers: Patterns of modules whose outputs are measured instead of the units found, such as ``"encoder.*"``; not
            with ``include``, ``exclude`` and ``example_input``, which are about units.
        include: Patterns of unit groups to watch; default: all.
        exclude: Patterns of unit groups to leave out. Two monitors in a Trainer differ here, in ``include``, ``layers``
            or the names of their metrics, by which checkpoints, and logs, tell them apart.
        aggregate: What is also logged over all layers, as ``plasticity/<metric>/<aggregate>``.
        progress_bar: Names of metrics whose mean over the layers is shown in the progress bar.
        histogram_every_n_steps: Optimizer steps between histograms in TensorBoard, of the units' scores (mean magnitude
            relative to the layer) and utilities (if a callback replaces units); a multiple of ``every_n_steps``. None
            for no histograms.
        max_samples: Samples per batch handed to metrics of rank; of a larger batch, or of larger maps, evenly spread
            ones are taken.
        example_input: Input for the forward pass that finds the units; default ``pl_module.example_input_array``,
            else the first training batch.

    Raises:
        InvalidArgumentError: If a metric is unknown, a number is not positive, or arguments contradict each other.

    Example:
        >>> monitor = PlasticityMonitor(every_n_steps=100, metrics=["effective_rank", "stable_rank"])
        >>> trainer = pl.Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
        metrics: Sequence[str | Metric] | Mapping[str, Metric] = DEFAULT_METRICS,
        *,
        epoch_ends: bool = False,
        experience_ends: bool = False,
        batches: int | None = None,
        probe: Probe | None = None,
        layers: Patterns = None,
        include: Patterns = None,
        exclude: Patterns = None,
        aggregate: Sequence[Aggregate] = ("mean",),
        progress_bar: Sequence[str] | str = (),
        histogram_every_n_steps: int | None = None,
        max_samples: int = 4096,
        example_input: Any | None = None,
    ) -> None:
        check_counts(
            every_n_steps=every_n_steps,
            batches=batches,
            max_samples=max_samples,
            histogram_every_n_steps=histogram_every_n_steps,
        )
        check_flags(epoch_ends=epoch_ends, experience_ends=experience_ends)
        check_sources({"layers": layers}, {"include": include, "exclude": exclude, "example_input": example_input})
        check_sources({"probe": probe}, {"batches": batches})
        check_periods(every_n_steps, histogram_every_n_steps, has_ends=epoch_ends or experience_ends)
        check_aggregates(aggregate)
        self.every_n_steps, self.epoch_ends, self.experience_ends = every_n_steps, epoch_ends, experience_ends
        self.metrics = named_metrics(metrics)
        self.batches = min(10, every_n_steps or 10) if batches is None else batches
        self.probe, self.max_samples = probe, max_samples
        self.layers = as_patterns("layers", layers)
        self.include, self.exclude = include_exclude(include, exclude)
        self.aggregate = tuple(aggregate)
        self.progress_bar = (progress_bar,) if isinstance(progress_bar, str) else tuple(progress_bar)
        self.histogram_every_n_steps, self.example_input = histogram_every_n_steps, example_input
        check_metrics(self.metrics, self.progress_bar, has_probe=probe is not None)
        self._instruments: Instruments | None = None
        self._initial: dict[str, list[Tensor]] = {}
        self._ends_with_epoch = self._has_logged = self._has_warned = False
        self._arranged_in: str | None = None

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(
            metrics=sorted(self.metrics), layers=self.layers, include=self.include, exclude=self.exclude
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        initial = self._instruments.weights.initial if self._instruments is not None else self._initial
        return {"initial": initial} if initial else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._initial = state_dict.get("initial", {})

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.probe is not None and type(pl_module).forward is pl.LightningModule.forward:
            raise UnsupportedModelError(
                f"{type(pl_module).__name__} has no `forward`",
                "a module that can be called with the samples of `probe`",
                "Define `def forward(self, x): return self.net(x)`, or leave out `probe`",
            )

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.experience_ends:
            stream_of(trainer, ", or measure at `epoch_ends` instead")  # refused before the fit begins
        self._has_logged = self._has_warned = False
        if self.layers is not None or has_example(pl_module, self.example_input):
            self._attach(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        instruments = self._instruments or self._attach(trainer, pl_module, batch)
        self._ends_with_epoch = self._is_near_end(trainer, batch_idx)
        if not instruments.remaining and (self._ends_with_epoch or self._is_due(trainer, instruments)):
            self._begin(trainer, pl_module, instruments)
        instruments.before_batch(trainer, hears=self.probe is None)

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if self._instruments is not None:
            self._instruments.before_optimizer()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        instruments = self._instruments
        if instruments is not None and instruments.remaining:
            instruments.after_batch(trainer, pl_module, outputs, batch, batch_idx)
            if not instruments.remaining or (self._ends_with_epoch and _is_last(trainer, batch_idx)):
                found = self._write(trainer, instruments)
                self._publish(pl_module, found, in_batch=True)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.probe is not None and self._instruments is not None and self._ends(trainer):
            self._begin(trainer, pl_module, self._instruments)
            found = self._write(trainer, self._instruments)
            self._publish(pl_module, found, in_batch=False)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._has_logged or self._instruments is None:
            return
        if self._instruments.remaining and trainer.loggers:  # fewer samples give lower ranks: they may stand alone
            self._write(trainer, self._instruments, step=logged_step(trainer) - 1)
        else:
            warn_unlogged(trainer.global_step)  # nothing can be published any more

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._detach()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._detach()

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any = None) -> Instruments:
        groups: UnitMap | tuple[UnitGroup, ...] = ()
        if self.layers is not None:
            watched = watched_modules(pl_module, self.layers)
        else:
            groups = find_units(
                trainer,
                pl_module,
                self.example_input,
                batch,
                include=self.include,
                exclude=self.exclude,
                residual="group",
                otherwise=", or watch modules by their names with `layers=`",
            )
            watched = watched_groups(groups)
            if any(reads(metric) in {Reads.FEATURES, Reads.FEATURE_GRADIENTS} for metric in self.metrics.values()):
                warn_unread(groups)
        weights = weights_of([layer.name for layer in watched], groups, pl_module)
        self._instruments = Instruments(self.metrics, watched, weights, self._initial, pl_module, self.max_samples)
        return self._instruments

    def _detach(self) -> None:
        if self._instruments is not None:
            self._instruments.detach()
            self._initial = self._instruments.weights.initial
        self._instruments = None

    def _is_due(self, trainer: pl.Trainer, instruments: Instruments) -> bool:
        step = trainer.global_step
        return self.every_n_steps is not None and step % self.every_n_steps == 0 and step != instruments.began_at

    def _is_near_end(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Return whether this batch is one of the last, from which the end of the epoch is to be measured."""
        is_near = batch_idx >= trainer.num_training_batches - self.batches or _is_last(trainer, batch_idx)
        return self.probe is None and is_near and self._ends(trainer)

    def _ends(self, trainer: pl.Trainer) -> bool:
        """Return whether there is to be a measurement at the end of this epoch."""
        return self.epoch_ends or (self.experience_ends and experience_ends(trainer))

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule, instruments: Instruments) -> None:
        every, step = self.histogram_every_n_steps, trainer.global_step
        with_scores = every is not None and step % every == 0 and has_histograms(trainer)
        instruments.begin(step, self.batches if self.probe is None else 1, with_scores=with_scores)
        if self.probe is not None:
            with instruments.taps.opened():
                run_probe(trainer, pl_module, self.probe)

    def _write(self, trainer: pl.Trainer, instruments: Instruments, step: int | None = None) -> Measurement:
        """End a measurement and hand it to all loggers, at the step at which Lightning logs the current batch."""
        step = logged_step(trainer) if step is None else step
        found = instruments.end(trainer)
        extra: dict[str, Tensor | float] = {**aggregates(found.of_layers, self.aggregate), **found.of_updates}
        if self.experience_ends:
            extra["plasticity/experience"] = stream_of(trainer).current_experience
        write_scalars(trainer, found.of_layers, extra, step)
        if self._arranged_in != trainer.log_dir:  # TensorBoard takes one arrangement per log
            self._arranged_in = trainer.log_dir
            write_layout(trainer, found.of_layers, found.of_updates, self.aggregate)
        if found.scores:
            histograms = {f"unit_score/{layer}": score for layer, score in found.scores.items()}
            write_histograms(trainer, histograms | utilities(trainer), step)
        if found.unseen and not self._has_warned:
            self._has_warned = True
            warn_unseen(found.unseen)
        self._has_logged = True
        return found

    def _publish(self, pl_module: pl.LightningModule, found: Measurement, *, in_batch: bool) -> None:
        means = found.means()
        shown = {name for name in means if name.split("/")[1] in self.progress_bar}
        publish(pl_module, means, shown, in_batch=in_batch)


def _is_last(trainer: pl.Trainer, batch_idx: int) -> bool:
    return trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
