"""How much an update helps on the batch it was made from: the loss of that batch again, after the optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics import Metric

from lightning_plasticity.callbacks.monitoring.writing import PREFIX
from lightning_plasticity.callbacks.trial import trial_run
from lightning_plasticity.errors import UnsupportedModelError


class UpdateMeters:
    """The metrics of losses before and after updates, during one measurement.

    The loss before is that of training itself. For the loss after, the module's ``training_step`` runs a second time on
    the batch, in the same mode, without gradients and from the random numbers it had before, so that dropout masks are
    the same; what it does to the module (running statistics, metrics, logging) is undone.

    Args:
        metrics: Metrics by name; they are cloned.
        pl_module: The module.

    Raises:
        UnsupportedModelError: If there is a metric and the module optimises manually.
    """

    def __init__(self, metrics: Mapping[str, Metric], pl_module: pl.LightningModule) -> None:
        if metrics and not pl_module.automatic_optimization:
            raise UnsupportedModelError(
                f"{type(pl_module).__name__} optimises manually, and {list(metrics)} needs its loss after the step",
                "a `training_step` that can run a second time, because it returns the loss and steps no optimizer",
                "Leave them out of `metrics`, and update `SamplePlasticity` in your own `training_step`",
            )
        self.metrics = {name: metric.clone().to(pl_module.device) for name, metric in metrics.items()}
        self._steps = -1
        self._start: dict[str, Any] | None = None

    def before_batch(self, trainer: pl.Trainer) -> None:
        """Remember the random numbers that the batch starts from."""
        if self.metrics:
            self._steps, self._start = trainer.global_step, _collect_rng_states()

    def after_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the batch, if it ended with an optimizer step.

        Args:
            trainer: The Trainer; knows the precision.
            pl_module: The module.
            outputs: What Lightning has made of the result of ``training_step``.
            batch: The batch.
            batch_idx: Its number.
        """
        start, self._start = self._start, None
        if start is None or trainer.global_step == self._steps or not outputs:
            return
        before = outputs["loss"] * trainer.accumulate_grad_batches  # of which Lightning has taken the share
        after = _loss_again(trainer, pl_module, batch, batch_idx, start)
        for metric in self.metrics.values():
            metric.update(before, after)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics that were updated since the last call, by the name they are logged under; begin anew."""
        values: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            if metric.update_called:
                values[f"{PREFIX}/{name}"] = metric.compute()
                metric.reset()
        return values


@torch.no_grad()
def _loss_again(
    trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, start: dict[str, Any]
) -> Tensor:
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    with trainer.precision_plugin.train_step_context(), trial_run(pl_module):
        _set_rng_states(start)
        result: Any = pl_module.training_step(batch, *((batch_idx,) if takes_index else ()))
    loss: Tensor = result["loss"] if isinstance(result, Mapping) else result
    return loss.detach()
