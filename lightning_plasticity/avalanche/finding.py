"""Find the units of a strategy's model, in every experience anew, since it may grow."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.units import UnitMap, discover_units
from lightning_plasticity.units.example import example_called
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
        InvalidArgumentError: If the example is none.
        UnsupportedModelError: If the model has no units, or cannot be run on the example.
    """
    ran = "" if example_input is not None else "the strategy's forward pass on the first mini-batch: "
    with example_called("example_input", ran):
        units = discover_units(strategy.model, strategy.forward if example_input is None else example_input)
    checked_groups(units)
    return units.select(include, exclude)
