"""Write a row of results per experience while a Trainer fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_ends, stream_of
from lightning_plasticity.experiments.results import ResultTable, Value, provenance


class ExperienceRows(pl.Callback):
    """Append a row to a table at the end of every experience, before Lightning's checkpoint of that epoch.

    A row holds ``constants``, the place of the experience, what ``measure`` returns, commit and command. What was
    measured is printed, too.

    Args:
        table: The table.
        constants: What tells this run from others: method, seed, settings.
        measure: Called without gradients when an experience has ended, with the module as it is then.

    Example::

        rows = ExperienceRows(table, {"method": "sgd", "seed": 0}, lambda module: {"accuracy": module.accuracy()})
    """

    def __init__(
        self,
        table: ResultTable,
        constants: Mapping[str, Value],
        measure: Callable[[pl.LightningModule], Mapping[str, Value]],
    ) -> None:
        self.table, self.constants, self.measure = table, dict(constants), measure
        self.provenance = provenance()  # of the code that runs; the files may change while it does

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Append the row if the experience ends.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if experience_ends(trainer):
            place = {"experience": stream_of(trainer).current_experience}
            with torch.no_grad():
                measures = self.measure(pl_module)
            self.table.append({**self.constants, **place, **measures, **self.provenance})
            rank_zero_info(", ".join(f"{name} {value}" for name, value in {**place, **measures}.items()))
