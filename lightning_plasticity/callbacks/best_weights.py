"""Go on from the best weights of an experience rather than from its last."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_begins, experience_ends, stream_of
from lightning_plasticity.errors import InvalidArgumentError


class BestWeights(pl.Callback):
    """Return to the weights of the epoch with the best monitored value when an experience ends.

    Parameters and buffers, norm statistics among them, are written back in place, before Lightning's checkpoint of that
    epoch. The optimizer's memory, and the ages and utilities of methods that replace units, go on: units that were
    replaced since the best epoch keep the age of the replacement. It needs a
    :class:`~lightning_plasticity.streams.StreamDataModule`.

    Args:
        monitor: Name of a logged value, such as ``"val_accuracy"``; of the values at the end of training epochs.
        mode: Whether the best is the ``"max"`` or the ``"min"``; the earliest among equals.

    Raises:
        InvalidArgumentError: If ``mode`` is neither, or the value was not logged by the end of an epoch.

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), class-incremental CIFAR-100:
        early stopping on 50 validation images per class.

    Example::

        trainer = pl.Trainer(callbacks=BestWeights("val_accuracy"))
    """

    def __init__(self, monitor: str, mode: Literal["max", "min"] = "max") -> None:
        if mode not in {"max", "min"}:
            raise InvalidArgumentError(f"`mode={mode!r}`", "'max' or 'min'", "Pass one of the two")
        self.monitor, self.mode = monitor, mode
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._weights: dict[str, Tensor] = {}

    @property
    @override
    def state_key(self) -> str:
        """Tell several of these callbacks apart in a checkpoint."""
        return f"{type(self).__qualname__}[{self.monitor}]"

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
        """Forget the best of the experience before.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if experience_begins(trainer):
            self.best_value, self.best_epoch, self._weights = None, None, {}

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best so far; return to the best if the experience ends.

        Args:
            trainer: The Trainer.
            pl_module: The module.

        Raises:
            InvalidArgumentError: If the monitored value was not logged.
        """
        if self.monitor not in trainer.callback_metrics:
            raise InvalidArgumentError(
                f"no logged value {self.monitor!r}, but {sorted(trainer.callback_metrics)}",
                "a value that is logged in every epoch, in training or validation",
                "Log it in `validation_step`, or correct `monitor`",
            )
        value = float(trainer.callback_metrics[self.monitor])
        if self._improves(value):
            self.best_value, self.best_epoch = value, trainer.current_epoch
            self._weights = {name: tensor.detach().clone() for name, tensor in _tensors(pl_module).items()}
        if experience_ends(trainer) and self._weights:
            with torch.no_grad():
                for name, tensor in _tensors(pl_module).items():
                    tensor.copy_(self._weights[name])

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the current experience, its epoch and its weights."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "weights": self._weights}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best of a saved run.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
        self._weights = dict(state_dict["weights"])

    def _improves(self, value: float) -> bool:
        if value != value:  # NaN is never best
            return False
        if self.best_value is None:
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
