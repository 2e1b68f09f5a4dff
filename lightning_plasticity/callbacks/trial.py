"""Run a LightningModule on trial: whatever the run does to it is undone."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy, deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torchmetrics import Metric

from lightning_plasticity.units.restoring import refill

_MUTED = ("log", "log_dict", "print")


@contextmanager
def trial_run(pl_module: pl.LightningModule) -> Generator[None]:
    """Leave the module as it was: buffers, attributes, metrics and all random numbers; log nothing, compile nothing.

    A compiled part runs as it was written, so that it is compiled when it runs for the first time in earnest and sees
    the hooks that were registered in between. What the run does to objects outside of the module stays done.

    Args:
        pl_module: The module.
    """
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(_uncompiled())
        for module in pl_module.modules():
            stack.enter_context(_attributes_restored(module))
        stack.enter_context(_muted(pl_module))
        yield


def _uncompiled() -> AbstractContextManager[None]:
    stance = getattr(torch.compiler, "set_stance", None)  # from PyTorch 2.6
    if stance is None:
        return nullcontext()
    eager: AbstractContextManager[None] = stance("force_eager")
    return eager


@contextmanager
def _muted(pl_module: pl.LightningModule) -> Generator[None]:
    """Cover the logging methods; the attributes of the instance go when the attributes are restored."""
    for name in _MUTED:
        vars(pl_module)[name] = _nothing
    yield


@contextmanager
def _attributes_restored(module: nn.Module) -> Generator[None]:
    """Restore the attributes of one module, the contents of its containers and the values of its buffers."""
    attributes = vars(module)
    whole = {k: v for k, v in attributes.items() if k != "_modules"}
    before = deepcopy(whole) if isinstance(module, Metric) else whole  # a metric's states are lists of tensors
    contents = {k: copy(v) for k, v in before.items() if isinstance(v, (list, dict, set, deque))}
    buffers = {name: buffer.clone() for name, buffer in module._buffers.items() if buffer is not None}
    try:
        yield
    finally:
        for name in attributes.keys() - whole.keys() - {"_modules"}:
            del attributes[name]
        attributes.update(before)
        for name, content in contents.items():
            refill(before[name], content)
        with torch.no_grad():
            for name, value in buffers.items():
                buffer = module._buffers[name]
                if buffer is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a logging method."""
