"""What happened: one record per replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class ReplacementEvent:
    """The replacement of some units of one group; plain numbers, for logs and tables.

    Args:
        step: Optimizer steps that the group has been trained for, this one included.
        group: Name of the group.
        units: The replaced units, lowest score first.
        ages: How old they had become, in optimizer steps.
        scores: The scores by which they were chosen.
    """

    step: int
    group: str
    units: tuple[int, ...]
    ages: tuple[int, ...]
    scores: tuple[float, ...]


Listener: TypeAlias = Callable[[ReplacementEvent], None]
