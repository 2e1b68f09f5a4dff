"""Run a model over a fixed probe set and leave no trace of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

try:
    from torch.compiler import set_stance as uncompiled
except ImportError:  # torch before 2.6 cannot; there, compiled modules give no features
    uncompiled = nullcontext  # type: ignore[assignment]

Probe = Tensor | Iterable[Any]


@torch.no_grad()
def run_probe(trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe) -> None:
    """Run the module on every batch of the probe, in evaluation mode.

    Modes, buffers and random numbers are as before afterwards. Compiled modules run as if they were not.

    Args:
        trainer: The Trainer; knows the precision.
        pl_module: The module; its ``forward`` is called.
        probe: A tensor, which is one batch, or an iterable of batches, such as a ``DataLoader``. A batch is the input
            of ``forward``; of a tuple or list, the first entry is, so that ``(x, y)`` works.
    """
    precision = trainer.precision_plugin
    # Compiled modules may ignore hooks; without compilation they hear them.
    with undisturbed(pl_module), precision.forward_context(), uncompiled("force_eager"):
        for batch in [probe] if isinstance(probe, Tensor) else probe:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            pl_module(precision.convert_input(move_data_to_device(inputs, pl_module.device)))


@contextmanager
def undisturbed(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode and give back modes, buffers and random numbers afterwards.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        now = dict(model.named_buffers())
        for name, buffer in buffers.items():
            if name in now:
                now[name].copy_(buffer)
