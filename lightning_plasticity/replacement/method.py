"""A method of unit replacement: a utility, a selection, edits and a period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.replacement.edits import Edit
from lightning_plasticity.replacement.memory import Field
from lightning_plasticity.replacement.optimizer.memory import StatePolicy
from lightning_plasticity.replacement.selection import Selection
from lightning_plasticity.replacement.statistic import Statistic
from lightning_plasticity.replacement.utilities.utility import Utility


@dataclass(frozen=True)
class Method:
    """What is measured of units, which of them are replaced, how, and how often.

    Args:
        utility: Scores the units; higher is kept.
        selection: Chooses the units to replace from scores and ages.
        edits: Applied in order to the chosen units.
        every_n_steps: Optimizer steps between two selections; the utility is updated at every step.
        optimizer_state: What happens to the optimizer's memory of replaced entries: ``"fresh"`` continues them as a
            newly built optimizer would (see :mod:`~lightning_plasticity.replacement.optimizer.memory`), ``"zero"`` sets
            the moments to 0, ``"keep"`` leaves them.

    Raises:
        InvalidArgumentError: If ``every_n_steps`` is not a positive whole number, or parts contradict each other.
    """

    utility: Utility
    selection: Selection
    edits: tuple[Edit, ...]
    every_n_steps: int = 1
    optimizer_state: StatePolicy = "fresh"

    def __post_init__(self) -> None:
        remedy = "Pass 1 to act at every step"
        check_number("every_n_steps", self.every_n_steps, "[1, inf)", whole=True, remedy=remedy)
        if self.optimizer_state not in get_args(StatePolicy):
            raise InvalidArgumentError(
                f"optimizer_state={self.optimizer_state!r}", f"one of {get_args(StatePolicy)}", "Choose one of these"
            )
        self.fields()

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What is measured: the utility first, then what edits ask for, without doubles."""
        statistics: list[Statistic] = [self.utility]
        for edit in self.edits:
            statistics += [statistic for statistic in edit.statistics if statistic not in statistics]
        return tuple(statistics)

    def fields(self) -> dict[str, Field]:
        """Return what is remembered of every unit, for all statistics.

        Raises:
            InvalidArgumentError: If two different statistics use the same name.
        """
        fields: dict[str, Field] = {}
        for statistic in self.statistics:
            own = statistic.fields()
            doubles = sorted(fields.keys() & own.keys())
            if doubles:
                raise InvalidArgumentError(
                    f"{statistic!r} remembers {doubles}, which another part of the method remembers too",
                    "parts whose fields have different names, or equal parts",
                    "Give the parts the same hyper-parameters (such as decay_rate), or rename a field",
                )
            fields.update(own)
        return fields
