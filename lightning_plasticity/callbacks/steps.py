"""How callbacks log: when and at the step at which Lightning logs the same batch, and for others to monitor."""

from __future__ import annotations

from collections.abc import Container, Mapping

import lightning.pytorch as pl
from torch import Tensor


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step under which Lightning logs the current batch, so that all curves have one axis."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class LogClock:
    """Tells when a Trainer logs: whenever the optimizer steps have passed a multiple of its ``log_every_n_steps``."""

    def __init__(self) -> None:
        self._last = 0

    def start(self, trainer: pl.Trainer) -> None:
        """Count from here on."""
        self._last = trainer.global_step

    def strikes(self, trainer: pl.Trainer) -> bool:
        """Return whether it is time, once for every period."""
        period, before = trainer.log_every_n_steps, self._last  # type: ignore[attr-defined]
        self._last = trainer.global_step
        return bool(period) and self._last // period != before // period


def log_everywhere(trainer: pl.Trainer, pl_module: pl.LightningModule, values: Mapping[str, float]) -> None:
    """Log scalars in ``on_train_batch_end``: to all loggers, at the step of the batch, and for callbacks to monitor.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        values: The scalars by name.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=logged_step(trainer))
    publish(pl_module, values, in_batch=True)


def publish(
    pl_module: pl.LightningModule, values: Mapping[str, Tensor | float], shown: Container[str] = (), *, in_batch: bool
) -> None:
    """Make scalars known to the Trainer: to callbacks that monitor a value, and to its progress bar.

    Args:
        pl_module: The module.
        values: The scalars by name.
        shown: Names of those to show in the progress bar.
        in_batch: Whether this happens in a hook of a batch, rather than of an epoch.
    """
    for name, value in values.items():
        pl_module.log(
            name,
            float(value),
            prog_bar=name in shown,
            logger=False,
            on_step=in_batch,
            on_epoch=not in_batch,
            batch_size=1,
        )
