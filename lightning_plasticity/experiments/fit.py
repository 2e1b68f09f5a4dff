"""Fit a module on a stream so that a kill costs one experience at most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_ends
from lightning_plasticity.streams import StreamDataModule


class BoundaryCheckpoint(Checkpoint):
    """Save the run at the end of every experience, over the checkpoint before.

    Being one of Lightning's checkpoint callbacks, it comes after all others and after the module's own hook.

    Args:
        path: Where the checkpoint goes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the experience ends.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if experience_ends(trainer):
            trainer.save_checkpoint(self.path, weights_only=False)


def fit_resumable(
    module: pl.LightningModule,
    stream: StreamDataModule,
    folder: str | Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    max_steps: int = -1,
    accelerator: str = "auto",
) -> pl.Trainer:
    """Fit a module on a stream, from the last checkpoint in a folder if there is one.

    A checkpoint is written at the end of every experience. Called again after a kill, with the same arguments, it ends
    with the weights of a run that was never killed, as long as what the module does between two checkpoints depends on
    its state and on generators of its own only. The same goes for a run that ``max_steps`` cut short and that goes on
    without it: the unfinished experience leaves no checkpoint.

    Args:
        module: The module.
        stream: The stream.
        folder: Where the checkpoint lies: one folder per run.
        callbacks: Callbacks of the Trainer.
        max_steps: Optimizer steps after which to stop; -1 goes through the whole stream.
        accelerator: As in :class:`lightning.pytorch.Trainer`; one device of it is used.

    Returns:
        The Trainer after the fit.
    """
    last = Path(folder) / "last.ckpt"
    trainer = pl.Trainer(
        max_epochs=stream.num_epochs,
        max_steps=max_steps,
        callbacks=[*callbacks, BoundaryCheckpoint(last)],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,  # a fifth of the time of a small network
        num_sanity_val_steps=0,
        accelerator=accelerator,
        devices=1,
        reload_dataloaders_every_n_epochs=1,  # experiences may differ in length
    )
    trainer.fit(module, datamodule=stream, ckpt_path=last if last.exists() else None)
    if not last.exists():
        rank_zero_warn(
            f"max_steps={max_steps} ended the run before its first experience of {len(stream.train_dataloader())} "
            "batches an epoch did; there is nothing to resume or to measure yet. Raise `max_steps`."
        )
    return trainer
