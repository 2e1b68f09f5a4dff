"""How callbacks know where in a stream they are: from the datamodule and the epoch, with no state of their own.

Ask in ``on_train_epoch_start`` for a beginning and in ``on_train_epoch_end`` for an end. A resumed run answers as
it would have, since Lightning restores the epoch and does not repeat a hook that was called before the checkpoint.
"""

from __future__ import annotations

import lightning.pytorch as pl

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import StreamDataModule


def stream_of(trainer: pl.Trainer, otherwise: str = "") -> StreamDataModule:
    """Return the datamodule that knows the current experience.

    Args:
        trainer: The Trainer, during a fit.
        otherwise: What the user may also do if there is none; ends the message.

    Returns:
        Its :class:`~lightning_plasticity.streams.StreamDataModule`.

    Raises:
        InvalidArgumentError: If the fit has another datamodule or none.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    if not isinstance(datamodule, StreamDataModule):
        raise InvalidArgumentError(
            f"a fit whose datamodule is a {type(datamodule).__name__}",
            "a StreamDataModule, which knows when an experience begins",
            f"Pass `Trainer.fit(module, datamodule=StreamDataModule(...))`{otherwise}",
        )
    return datamodule


def experience_begins(trainer: pl.Trainer) -> bool:
    """Return whether this epoch is the first of its experience.

    Args:
        trainer: The Trainer, during a fit with a :class:`~lightning_plasticity.streams.StreamDataModule`.

    Returns:
        True also for the first experience; combine with ``current_experience > 0`` for a change of experience.
    """
    return stream_of(trainer).epoch_in_experience == 0


def experience_ends(trainer: pl.Trainer) -> bool:
    """Return whether this epoch is the last of its experience and has come to its end.

    Args:
        trainer: The Trainer, during a fit with a :class:`~lightning_plasticity.streams.StreamDataModule`.

    Returns:
        True also for the last experience; False where ``max_steps`` or a stop cut the epoch short.
    """
    stream = stream_of(trainer)
    whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return whole and stream.epoch_in_experience == stream.epochs_per_experience - 1


def experience_changes(trainer: pl.Trainer) -> bool:
    """Return whether this epoch is the first of an experience that follows another.

    Args:
        trainer: The Trainer, during a fit with a :class:`~lightning_plasticity.streams.StreamDataModule`.

    Returns:
        False for the first experience, which a new network meets.
    """
    return experience_begins(trainer) and stream_of(trainer).current_experience > 0
