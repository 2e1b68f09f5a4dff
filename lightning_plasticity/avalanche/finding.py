"""Find the units of a strategy's model, in every experience anew, since it may grow."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.units import UnitMap, discover_units
from lightning_plasticity.units.patterns import Patterns
from lightning_plasticity.units.unit_map import checked_groups


def find_units(strategy: Any, example_input: Any | None, include: Patterns, exclude: Patterns) -> UnitMap:
    """Return the units of a strategy's model.

    Args:
        strategy: The strategy.
        example_input: Arguments of the model's ``forward``; None runs the strategy's own forward pass.
        include: Patterns of groups to keep; None keeps all.
        exclude: Patterns of groups to leave out.

    Returns:
        The units that are left.

    Raises:
        UnsupportedModelError: If the model has no units.
    """
    units = discover_units(strategy.model, strategy.forward if example_input is None else example_input)
    checked_groups(units)
    return units.select(include, exclude)
