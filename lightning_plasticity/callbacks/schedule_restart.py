"""Restart the learning-rate schedule when the experience changes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_changes, stream_of
from lightning_plasticity.errors import InvalidArgumentError


class ScheduleRestart(pl.Callback):
    """Return every learning-rate scheduler, and what it schedules, to its beginning when the experience changes.

    Works with any scheduler: what is restored is what scheduler and parameter groups were before the first step. It
    needs a :class:`~lightning_plasticity.streams.StreamDataModule`.

    Raises:
        InvalidArgumentError: If the module has no scheduler (when the fit starts).

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), class-incremental CIFAR-100:
        the step size returns to 0.1 with every task.

    Example::

        trainer = pl.Trainer(callbacks=ScheduleRestart())
    """

    def __init__(self) -> None:
        self._schedulers: list[dict[str, Any]] = []
        self._groups: list[list[dict[str, Any]]] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the beginning: schedulers exist by now, and a checkpoint has not yet moved them on.

        Args:
            trainer: The Trainer.
            pl_module: The module.

        Raises:
            InvalidArgumentError: If there is no scheduler.
        """
        stream_of(trainer)
        if not trainer.lr_scheduler_configs:
            raise InvalidArgumentError(
                f"{type(pl_module).__name__}.configure_optimizers returns no scheduler",
                "a learning-rate scheduler to restart",
                "Return one, or leave out ScheduleRestart",
            )
        self._schedulers = [deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        self._groups = [[_settings(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the beginning if the experience changes.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if not experience_changes(trainer):
            return
        for config, state in zip(trainer.lr_scheduler_configs, self._schedulers, strict=True):
            config.scheduler.load_state_dict(deepcopy(state))
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                for name, value in settings.items():
                    _restore(group, name, value)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: deepcopy(value) for name, value in group.items() if name != "params"}


def _restore(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, Tensor):  # a learning rate that a captured graph reads: the tensor has to stay the same
        with torch.no_grad():
            group[name].copy_(value)
    else:
        group[name] = deepcopy(value)
