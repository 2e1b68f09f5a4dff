"""How callbacks log: at the step at which Lightning logs the same batch."""

from __future__ import annotations

from collections.abc import Mapping

import lightning.pytorch as pl


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step under which Lightning logs the current batch, so that all curves have one axis."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def log_to_all(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Log scalars to all loggers of a Trainer, at the step of the current batch."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=logged_step(trainer))
