"""Notice that a model trains without being observed: compiled before the hooks came, or in evaluation mode."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from lightning_plasticity.errors import UnsupportedModelError
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

    def hear(self, group: int) -> None:
        """Note that the group at position ``group`` was observed."""
        self._heard.add(group)

    def miss(self, group: int) -> None:
        """Note that the group at position ``group`` was trained but not observed.

        Args:
            group: Its position.

        Raises:
            UnsupportedModelError: If that has been so for ``PATIENCE`` steps and no group was ever observed; if others
                were, this is a warning, since a branch may be used rarely and regularised always.
        """
        tap = self._taps[group]
        self._missed[group] += 1
        if tap is None or group in self._heard or self._missed[group] != PATIENCE:
            return
        cause, remedy = (
            ("its hooks do not run", "Attach the engine before a compiled model runs for the first time")
            if tap.module.training
            else ("it is in evaluation mode", "Call train() on it")
        )
        error = UnsupportedModelError(
            f"no statistics from {tap.path!r} in {PATIENCE} steps in which its units were trained: {cause}",
            "forward passes in training mode, with hooks, through the layer that reads the units",
            f"{remedy}, or leave these units out with `exclude=`",
        )
        if not self._heard:
            raise error
        warnings.warn(str(error), stacklevel=2)
