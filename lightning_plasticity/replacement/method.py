"""A method of unit replacement: a utility, a selection, edits and a period."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement.edits import Edit
from lightning_plasticity.replacement.optimizer_state import StatePolicy
from lightning_plasticity.replacement.selection import Selection
from lightning_plasticity.replacement.utility import Utility


@dataclass(frozen=True)
class Method:
    """What is measured of units, which of them are replaced, how, and how often.

    Args:
        utility: Scores the units; higher is kept.
        selection: Chooses the units to replace from scores and ages.
        edits: Applied in order to the chosen units.
        every_n_steps: Optimizer steps between two selections; the utility is updated at every step.
        optimizer_state: What happens to the optimizer's memory of replaced entries: ``"fresh"`` continues them as a
            newly built optimizer would (see :mod:`~lightning_plasticity.replacement.optimizer_state`), ``"zero"`` sets
            the moments to 0, ``"keep"`` leaves them.

    Raises:
        InvalidArgumentError: If ``every_n_steps`` is not a positive whole number.
    """

    utility: Utility
    selection: Selection
    edits: tuple[Edit, ...]
    every_n_steps: int = 1
    optimizer_state: StatePolicy = "fresh"

    def __post_init__(self) -> None:
        if isinstance(self.every_n_steps, bool) or not isinstance(self.every_n_steps, int) or self.every_n_steps < 1:
            raise InvalidArgumentError(
                f"every_n_steps={self.every_n_steps!r}", "a whole number of at least 1", "Pass 1 to act at every step"
            )
