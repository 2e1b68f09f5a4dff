"""What all callbacks around an engine share: what they treat, whom they serve, and that nothing is left behind."""

from __future__ import annotations

from abc import ABC, abstractmethod

import lightning.pytorch as pl
from typing_extensions import override

from lightning_plasticity.callbacks.guards import check_trainer
from lightning_plasticity.units.patterns import Patterns, include_exclude


class EngineCallback(pl.Callback, ABC):
    """A callback with an engine, which leaves model and optimizers alone when the fit ends, however it ends.

    Args:
        include: Patterns of what to treat; None treats all.
        exclude: Patterns of what to leave alone; they win.

    Raises:
        InvalidArgumentError: If one of them is no pattern.
    """

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self.include, self.exclude = include_exclude(include, exclude)

    @abstractmethod
    def detach(self) -> None:
        """Remove all hooks; what is remembered stays, for a further fit."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            check_trainer(self, trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.detach()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.detach()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.detach()
