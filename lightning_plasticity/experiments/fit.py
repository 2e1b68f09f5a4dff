"""Fit a module on a stream so that a kill costs one experience at most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_plasticity.streams import StreamDataModule


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
    its state and on generators of its own only.

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
    saver = ModelCheckpoint(
        folder,
        "last",
        every_n_epochs=stream.epochs_per_experience,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        max_epochs=stream.num_epochs,
        max_steps=max_steps,
        callbacks=[*callbacks, saver],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator=accelerator,
        devices=1,
        reload_dataloaders_every_n_epochs=1,  # experiences may differ in length
    )
    last = Path(folder) / "last.ckpt"
    trainer.fit(module, datamodule=stream, ckpt_path=last if last.exists() else None)
    return trainer
