"""Notice that a model trains without being observed, or is observed without a step of the optimizer that is known."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.replacement.watch import MOST_PASSES
from lightning_plasticity.units import Tap

PATIENCE = 10
"""Steps in which the weights of a group have gradients, but nothing was observed, before that is reported."""


class Alarm:
    """Counts, per group, the steps in which it was trained but not observed; silent once it was observed.

    Args:
        taps: Where the groups are observed.
    """

    def __init__(self, taps: Sequence[Tap | None]) -> None:
        self._taps = taps
        self._heard: set[int] = set()
        self._missed = [0] * len(taps)
        self._has_told_of_passes = self._has_told_of_layers = False

    def woken(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Warn, once, that a layer trains which did not run on the example, such as the head of another task.

        Args:
            name: Its dotted name.
            layer: The layer.
            args: What it is called with.
        """
        trains = layer.training and torch.is_grad_enabled()
        if self._has_told_of_layers or torch.compiler.is_compiling() or not trains:
            return
        self._has_told_of_layers = True
        warnings.warn(
            f"{name!r} runs, but did not on the example on which units were found: its own units are not known, and if "
            "it reads others, a replacement of those is not silent for it. Let the example run every branch of the "
            "model: pass a function, such as `lambda: [model(x, task) for task in tasks]`.",
            stacklevel=3,
        )

    def unstepped(self) -> None:
        """Warn, once, that the model runs and runs, but no optimizer that is known steps."""
        if self._has_told_of_passes:
            return
        self._has_told_of_passes = True
        warnings.warn(
            f"{MOST_PASSES} forward passes in training mode since the last step of the optimizer that was given to the "
            "engine, so no unit is replaced. If another optimizer has taken its place, detach the engine, call "
            "`replacer.use(optimizer)` and attach it again; passes that nothing is learned from belong under "
            "`torch.no_grad()`, or in evaluation mode.",
            stacklevel=3,
        )

    def hear(self, groups: Iterable[int]) -> None:
        """Note that the groups at these positions were observed."""
        self._heard.update(groups)

    def miss(self, groups: Iterable[int]) -> None:
        """Note that the groups at these positions were trained but not observed.

        Args:
            groups: Their positions.

        Raises:
            UnsupportedModelError: If that has been so for ``PATIENCE`` steps and no group was ever observed; if others
                were, this is a warning, since a branch may be used rarely and regularised always.
        """
        for group in groups:
            self._missed[group] += 1
            tap = self._taps[group]
            if tap is not None and group not in self._heard and self._missed[group] == PATIENCE:
                self._report(tap)

    def _report(self, tap: Tap) -> None:
        cause, remedy = (
            (
                "its hooks do not run, or the model has another layer in its place",
                "Attach the engine before a compiled model runs for the first time, build another one with "
                "`units.update(model)` after a layer was exchanged",
            )
            if tap.module.training
            else ("it is in evaluation mode", "Call train() on it")
        )
        error = UnsupportedModelError(
            f"no statistics from {tap.path!r} in {PATIENCE} steps in which its units were trained: {cause}",
            "forward passes in training mode, with hooks, through the layer that reads the units",
            f"{remedy}, or leave these units out (`exclude=` of callbacks, `units.select(exclude=...)`)",
        )
        if not self._heard:
            raise error
        warnings.warn(str(error), stacklevel=3)
