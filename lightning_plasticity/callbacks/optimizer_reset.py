"""Reset the optimizer when the experience changes."""

from __future__ import annotations

import lightning.pytorch as pl
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_changes, stream_of


class OptimizerReset(pl.Callback):
    """Let every optimizer forget moments and step counts at the beginning of every experience but the first.

    Weights, learning rates and schedules stay. It needs a
    :class:`~lightning_plasticity.streams.StreamDataModule`.

    References:
        Asadi et al., Resetting the optimizer in deep RL: an empirical study (NeurIPS 2023).

    Example::

        trainer = pl.Trainer(callbacks=OptimizerReset())
    """

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a fit without a stream.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        stream_of(trainer)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the optimizers if the experience changes.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if experience_changes(trainer):
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
