"""The lifetime of the replacement engine in a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from lightning_plasticity.callbacks.example import check_example, find_units, has_example
from lightning_plasticity.callbacks.guards import check_optimizers
from lightning_plasticity.callbacks.lifetime import EngineCallback
from lightning_plasticity.callbacks.steps import LogClock, log_everywhere
from lightning_plasticity.errors import check_flags, check_seed
from lightning_plasticity.replacement import Method, ReplacementEvent, UnitReplacer
from lightning_plasticity.replacement.refusals import checked_method, checked_overrides, treatable
from lightning_plasticity.units.patterns import Patterns


class UnitReplacement(EngineCallback):
    """Replace hidden units by any method, after every optimizer step.

    Finds the units by itself when the fit starts, from ``example_input``, the module's ``example_input_array`` or the
    first training batch. The model is not changed; the engine lives in hooks that are removed when the fit ends. Its
    state is in the checkpoint, and a further ``fit`` of the same module continues with the ages and utilities of the
    one before; that of another module starts anew.

    Prints at the start which units it treats, how many it will replace and which layers it leaves alone and why. Logs
    for every group, every ``log_every_n_steps`` steps, at the step at which Lightning logs the same batch:
    ``unit_replacement/replaced/<group>`` (units replaced so far), ``utility_low``, ``utility_median`` and
    ``utility_high`` (quantiles of the scores) and, for methods with a maturity, ``mature_fraction`` (share of the units
    that are old enough to be replaced, in ``[0, 1]``) and ``steps_until_possible`` (optimizer steps until the first
    possible replacement).

    If the module exchanges or adds a layer, or exchanges its optimizers, while it is fitted, as when a head grows, the
    units are found anew before the next batch; groups whose name and size are as before keep their ages and utilities.
    The place for such a change is the beginning or the end of an epoch: within a batch, the step cannot be undone.

    A unit ages with the optimizer that owns its incoming weights, at each of its steps in which they have a gradient. A
    step that a gradient scaler skips leaves no trace. Layers that no optimizer trains are left alone.

    A checkpoint keeps its state under ``include`` and ``exclude``: two callbacks of one class in a Trainer must differ
    there, and one that was changed there starts afresh, of which Lightning warns. Units have one callback that replaces
    them, since it would not know the age of what another has replaced.

    Args:
        method: The method, such as :func:`~lightning_plasticity.methods.continual_backprop`.
        overrides: Other methods for the groups whose name matches a pattern (``*``, ``?``); the first match wins. They
            may differ from ``method`` in selection, edits and period, not in what is measured.
        include: Patterns of groups to treat; None treats all.
        exclude: Patterns of groups to leave alone.
        example_input: Arguments of ``forward`` for finding the units: a tensor, tuple or dict.
        seed: Seed of the callback's own random numbers; None takes the global seed of the first process.
        record_events: Whether to keep a record of every replacement in ``events``; checkpoints hold none of them.

    Attributes:
        replacer: The engine, from the start of the first fit.
        events: A :class:`~lightning_plasticity.replacement.ReplacementEvent` per replacement, if recorded.

    Raises:
        InvalidArgumentError: If an argument is none of its kind, such as ``method`` no method, or if (when the fit
            starts) another callback replaces the same units.

    Example:
        >>> from lightning_plasticity.methods import continual_backprop
        >>> trainer = pl.Trainer(callbacks=[UnitReplacement(continual_backprop())], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        method: Method,
        *,
        overrides: Mapping[str, Method] | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        example_input: Any | None = None,
        seed: int | None = None,
        record_events: bool = False,
    ) -> None:
        super().__init__(include, exclude)
        check_seed(seed)
        check_flags(record_events=record_events)
        self.method, self.overrides = checked_method(method), checked_overrides(overrides)
        self.example_input, self.seed, self.record_events = example_input, seed, record_events
        self.replacer: UnitReplacer | None = None
        self.events: list[ReplacementEvent] = []
        self._restored: dict[str, Any] = {}
        self._expected: dict[int, int] = {}
        self._clock = LogClock()

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(self, trainer, pl_module)
        check_example(pl_module, self.example_input)
        if has_example(pl_module, self.example_input):  # before a compiled module runs, if only for the sanity check
            self._start(trainer, pl_module, None)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)
        self._restore()  # the optimizers' own states were restored after `on_fit_start`

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._is_current(trainer):
            self._start(trainer, pl_module, batch)
            self._restore()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.replacer is not None:
            position = next(i for i, each in enumerate(self.replacer.optimizers) if each is optimizer)
            self._expected[position] = self.replacer.steps[position] + 1

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.replacer is None:
            return
        for position, steps in self._expected.items():
            if self.replacer.steps[position] < steps:  # a gradient scaler did not call the optimizer
                self.replacer.drop_readings(position)
        self._expected.clear()
        if self._clock.strikes(trainer):
            values = {f"unit_replacement/{name}": value for name, value in self.replacer.metrics().items()}
            log_everywhere(trainer, pl_module, values)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.replacer.state_dict() if self.replacer is not None else self._restored

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        """Find the units and attach the engine; in a further fit its optimizers are new, known units live on."""
        units = find_units(trainer, pl_module, self.example_input, batch, include=self.include, exclude=self.exclude)
        units = treatable(units, trainer.optimizers, self.method.statistics)
        self.detach()
        before = self.replacer if self.replacer is not None and self.replacer.links.model is units.model else None
        if before is not None and before.treats(units):
            before.use(trainer.optimizers)
            before.links.accept()
        else:
            self.replacer = UnitReplacer(
                self.method, units, trainer.optimizers, overrides=self.overrides, seed=self.seed
            )
            if self.record_events:
                self.replacer.listeners.append(self.events.append)
            if before is not None:
                self.replacer.carry_over(before.state_dict())
        assert self.replacer is not None  # noqa: S101 - just built
        self.replacer.attach()
        rank_zero_info(f"{type(self).__name__}:\n{self.replacer.plan(units.skipped)}")

    def _is_current(self, trainer: pl.Trainer) -> bool:
        """Return whether the engine acts, on the layers and the optimizers that are there now."""
        engine = self.replacer
        if engine is None or not engine.attached:
            return False
        return engine.links.hold() and engine.optimizers == tuple(trainer.optimizers)

    def _restore(self) -> None:
        if self.replacer is None or not self._restored:
            return
        self.replacer.load_state_dict(self._restored)
        self._restored = {}
        steps = {group.name: ages.step for group, ages in zip(self.replacer.groups, self.replacer.ages, strict=True)}
        self.events[:] = [each for each in self.events if each.step <= steps[each.group]]  # of a tuner's trial steps

    @override
    def detach(self) -> None:
        if self.replacer is not None:
            self.replacer.detach()
