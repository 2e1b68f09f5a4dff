"""Run a LightningModule on trial: whatever the run does to it is undone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_plasticity.units.restoring import attributes_restored, uncompiled, values_restored

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
        stack.enter_context(uncompiled())
        stack.enter_context(attributes_restored(pl_module))
        stack.enter_context(values_restored(pl_module))
        stack.enter_context(_muted(pl_module))
        yield


@contextmanager
def _muted(pl_module: pl.LightningModule) -> Generator[None]:
    """Cover the logging methods; the attributes of the instance go when the attributes are restored."""
    for name in _MUTED:
        vars(pl_module)[name] = _nothing
    yield


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a logging method."""
