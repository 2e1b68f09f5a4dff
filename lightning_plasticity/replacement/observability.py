"""What can be seen of the engine from outside: the plan before training, and numbers per group while it runs.

Letters: ``U`` units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.selection import Selection
from lightning_plasticity.units import Skipped, UnitGroup
from lightning_plasticity.units.table import aligned, skipped_lines

QUANTILES: Mapping[str, float] = {"utility_low": 0.05, "utility_median": 0.5, "utility_high": 0.95}
"""Quantiles of the scores of a group, by the name they are logged under."""


@runtime_checkable
class Maturing(Protocol):
    """A selection that protects young units."""

    @property
    def maturity_threshold(self) -> int:
        """Age in optimizer steps up to which a unit is protected."""


@runtime_checkable
class Steady(Protocol):
    """A selection that replaces a constant fraction of the mature units at every decision."""

    @property
    def replacement_rate(self) -> float:
        """The fraction, in ``[0, 1]``."""


def age_scalars(group: UnitGroup, ages: Ages, selection: Selection, every_n_steps: int) -> dict[str, float]:
    """Return what the host knows of a group: units replaced so far and, with a maturity, how far it is.

    Args:
        group: The group.
        ages: Its ages.
        selection: The rule that chooses among its units.
        every_n_steps: Optimizer steps between two selections.

    Returns:
        ``replaced/<group>``; for a selection with a maturity also ``mature_fraction/<group>``, the share of mature
        units in ``[0, 1]``, and ``steps_until_possible/<group>``, the optimizer steps until the first unit may be
        replaced.
    """
    values: dict[str, float] = {f"replaced/{group.name}": ages.replaced}
    if isinstance(selection, Maturing):
        threshold = selection.maturity_threshold
        oldest = int(ages.age.max()) if group.size else 0
        ripe = ages.step + max(0, threshold + 1 - oldest)
        values[f"mature_fraction/{group.name}"] = ages.mature_count(threshold) / max(1, group.size)
        values[f"steps_until_possible/{group.name}"] = ripe + -ripe % every_n_steps - ages.step
    return values


def score_scalars(group: UnitGroup, score: Tensor) -> dict[str, float]:
    """Return the quantiles of the finite scores of a group, under the names of :data:`QUANTILES`; none if none is.

    Args:
        group: The group.
        score: Scores of its units, ``[U]``, on the host.

    Returns:
        ``<quantile>/<group>``, in units of the score.
    """
    finite = score[score.isfinite()].double()
    if not len(finite):
        return {}
    points = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device="cpu")
    values = torch.quantile(finite, points).tolist()
    return {f"{name}/{group.name}": value for name, value in zip(QUANTILES, values, strict=True)}


def plan(
    groups: Sequence[UnitGroup],
    selections: Sequence[Selection],
    periods: Sequence[int],
    skipped: Iterable[Skipped] = (),
) -> str:
    """Return a table for people: what will be replaced, and what not and why.

    Args:
        groups: The groups under treatment.
        selections: The rule of every group.
        periods: Optimizer steps between two decisions, of every group.
        skipped: The layers that are left alone.

    Returns:
        One line per group with its units, the replacements expected in 1000 optimizer steps once all of its units are
        mature (``by score`` if they depend on the scores) and the age in steps from which a unit may be replaced; then
        one line per skipped layer.
    """
    rows = [("group", "units", "per 1000 steps", "from age", "")]
    for group, selection, period in zip(groups, selections, periods, strict=True):
        rate = (
            f"{1000 / period * selection.replacement_rate * group.size:.4g}"
            if isinstance(selection, Steady)
            else "by score"
        )
        first = selection.maturity_threshold + 1 if isinstance(selection, Maturing) else 1
        first = -(-first // period) * period
        rows.append((group.name, str(group.size), rate, str(first), "coupled" if group.coupled else ""))
    return "\n".join([*aligned(rows, numbers=rows[0][1:4]), *skipped_lines(skipped)])
