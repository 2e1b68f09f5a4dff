"""What a unit is worth: statistics that make a score."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.replacement.memory import State
from lightning_plasticity.replacement.statistic import Statistic
from lightning_plasticity.units import UnitGroup


@runtime_checkable
class Utility(Statistic, Protocol):
    """A measure of the worth of units; higher is kept."""

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the score of every unit, ``[U]``.

        Args:
            state: The memory of the group.
            group: The group.
            age: Ages in optimizer steps, ``[U]``, float64, on the device of the memory.
            generator: Source of randomness, on the host, equal on all processes.
        """
