"""The lifetime of the replacement engine in a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_plasticity.callbacks.example import find_units, has_example
from lightning_plasticity.callbacks.guards import check_trainer
from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.replacement import Method, UnitReplacer


class UnitReplacement(pl.Callback):
    """Replace hidden units by any method, after every optimizer step.

    Finds the units by itself when the fit starts, from ``example_input``, the module's ``example_input_array`` or the
    first training batch. The model is not changed; the engine lives in hooks that are removed when the fit ends. Its
    state is in the checkpoint, and a further ``fit`` continues with the ages and utilities of the one before.

    Logs for every group, at the Trainer's ``log_every_n_steps``: ``unit_replacement/replaced/<group>`` (units replaced
    so far) and ``unit_replacement/mature/<group>`` (share of mature units), for methods that have a maturity.

    Args:
        method: The method, such as :func:`~lightning_plasticity.methods.continual_backprop`.
        overrides: Other methods for the groups whose name matches a pattern (``*``, ``?``); the first match wins. They
            may differ from ``method`` in selection, edits and period, not in what is measured.
        include: Patterns of groups to treat; None treats all.
        exclude: Patterns of groups to leave alone.
        example_input: Arguments of ``forward`` for finding the units: a tensor, tuple or dict.
        seed: Seed of the callback's own random numbers; None takes the global seed of the first process.

    Example:
        >>> from lightning_plasticity.methods import continual_backprop
        >>> trainer = pl.Trainer(callbacks=[UnitReplacement(continual_backprop())], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        method: Method,
        *,
        overrides: Mapping[str, Method] | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        example_input: Any | None = None,
        seed: int | None = None,
    ) -> None:
        self.method, self.overrides = method, dict(overrides or {})
        self.include, self.exclude = include, exclude
        self.example_input, self.seed = example_input, seed
        self.replacer: UnitReplacer | None = None
        self._restored: dict[str, Any] = {}
        self._carried: dict[str, Any] = {}

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            check_trainer(self, trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.replacer is not None:  # a further fit: its optimizers are new, the units live on
            self._carried, self.replacer = self.replacer.state_dict(), None
        if has_example(pl_module, self.example_input):
            self._build(trainer, pl_module, None)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.replacer is not None:  # the optimizers' own states were restored between the two hooks
            self._restore(self.replacer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.replacer is None:
            self._build(trainer, pl_module, batch)
            assert self.replacer is not None  # noqa: S101 - just built
            self._restore(self.replacer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.replacer is not None and trainer.global_step % every == 0:
            metrics = self.replacer.metrics()
            for logger in trainer.loggers:
                logger.log_metrics({f"unit_replacement/{k}": v for k, v in metrics.items()}, step=trainer.global_step)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._detach()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._detach()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._detach()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.replacer.state_dict() if self.replacer is not None else self._restored

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def _build(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        units = find_units(trainer, pl_module, self.example_input, batch, include=self.include, exclude=self.exclude)
        if not trainer.optimizers:
            raise UnsupportedModelError(
                f"{type(pl_module).__name__} trains without an optimizer",
                "at least one optimizer, since units are replaced after its steps",
                "Return one from `configure_optimizers`",
            )
        seed = trainer.strategy.broadcast(self.seed if self.seed is not None else torch.initial_seed())
        self.replacer = UnitReplacer(
            self.method, units, trainer.optimizers, overrides=self.overrides, seed=seed
        ).attach()
        rank_zero_info(f"{type(self).__name__} treats {sum(g.size for g in units)} units:\n{units.summary()}")

    def _restore(self, replacer: UnitReplacer) -> None:
        if self._restored:
            replacer.load_state_dict(self._restored)
        elif self._carried:
            replacer.carry_over(self._carried)
        self._restored, self._carried = {}, {}

    def _detach(self) -> None:
        if self.replacer is not None:
            self.replacer.detach()
