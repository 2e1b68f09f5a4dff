"""What the engine refuses before it touches anything."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.replacement.statistic import Statistic
from lightning_plasticity.units import UnitGroup


def check_groups(groups: Sequence[UnitGroup], owners: Sequence[int | None], statistics: Sequence[Statistic]) -> None:
    """Refuse groups that cannot be treated.

    Args:
        groups: The groups.
        owners: Position of the optimizer that trains the incoming weights of each group; None if there is none.
        statistics: What is measured of them.

    Raises:
        UnsupportedModelError: If there is no group, a group is not trained, or one cannot be observed.
    """
    if not groups:
        raise UnsupportedModelError(
            "no group of hidden units",
            "a model with at least one hidden layer whose units are written and read by weights",
            "Look at `discover_units(model, example).summary()` for the reason of every layer",
        )
    orphans = [group.name for group, owner in zip(groups, owners, strict=True) if owner is None]
    if orphans:
        raise UnsupportedModelError(
            f"the incoming weights of {orphans} belong to no optimizer",
            "units whose incoming weights are trained",
            "Leave them out with `exclude=`, or give their parameters to the optimizer",
        )
    taps = [group.name for group in groups if group.tap is None]
    readers = [type(each).__name__ for each in statistics if each.reads_activation or each.reads_gradient]
    if taps and readers:
        raise UnsupportedModelError(
            f"the activations of {taps} are not an input or output of any module",
            f"units whose activation can be observed, as {readers[0]} does",
            "Leave them out with `exclude=`, or choose a utility of weights such as WeightMagnitude()",
        )
