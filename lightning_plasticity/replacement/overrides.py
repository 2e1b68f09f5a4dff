"""Which method treats which group: one for all, and others for the groups whose name matches a pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.refusals import checked_overrides
from lightning_plasticity.units import UnitGroup
from lightning_plasticity.units.patterns import check_patterns, matches


def method_per_group(
    groups: Sequence[UnitGroup], method: Method, overrides: Mapping[str, Method] | None
) -> list[Method]:
    """Return the method of every group.

    Args:
        groups: The groups.
        method: The method of groups that no pattern matches.
        overrides: Methods by pattern (``*``, ``?``) of group names; the first match wins. None for none.

    Returns:
        One method per group.

    Raises:
        InvalidArgumentError: If a pattern matches no group, or a method measures something else than ``method``, or
            treats the optimizer's memory otherwise: both are shared by all groups.
    """
    others = checked_overrides(overrides)
    check_patterns("overrides", others, [group.name for group in groups], "unit group")
    for pattern, other in others.items():
        measured = all(statistic in method.statistics for statistic in other.statistics)
        if other.utility != method.utility or not measured or other.optimizer_state != method.optimizer_state:
            raise InvalidArgumentError(
                f"the override for {pattern!r} measures {other.statistics} (optimizer_state={other.optimizer_state!r})",
                f"{method.statistics} (optimizer_state={method.optimizer_state!r}), as for all other groups",
                "Override what is selected and edited, such as replacement_rate or maturity_threshold, only",
            )
    return [
        next((other for pattern, other in others.items() if matches(group.name, (pattern,))), method)
        for group in groups
    ]
