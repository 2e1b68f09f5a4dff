"""What the laws of units have in common: what they take and return, and whom they blame.

A law takes the sandbox and the chosen units of some groups and returns what it found wrong, by the name of the group.
A law that holds for many groups at once holds for each of them, so :func:`blamed` looks at fewer groups only where it
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.sandbox import Sandbox

Chosen: TypeAlias = Sequence[tuple[UnitGroup, Tensor]]
"""Groups, and the numbers of some units of each."""

Problems: TypeAlias = dict[str, str]
"""What is wrong, by name of the group; empty if a law holds."""

Law: TypeAlias = Callable[[Sandbox, Chosen], Problems]


def blamed(law: Law, box: Sandbox, chosen: Chosen) -> Problems:
    """Check a law for all groups at once; if it fails, find by halving the groups for which it fails alone.

    Args:
        law: The law.
        box: The model.
        chosen: Groups and units.

    Returns:
        The problems by group name; of all groups if the law holds for each one alone, but not for all together.
    """
    together = law(box, chosen) if chosen else {}
    if not together or len(chosen) == 1:
        return together
    middle = len(chosen) // 2
    alone = blamed(law, box, chosen[:middle]) | blamed(law, box, chosen[middle:])
    return alone or {name: f"together with other groups: {problem}" for name, problem in together.items()}


def halves(chosen: Chosen) -> list[Chosen]:
    """Return the units in two parts: every other one of each group, and the rest; nothing if there is one per group.

    A norm cannot divide by the length of a row all of whose entries are zero; of fewer units, a row keeps some.
    """
    first = [(group, units[::2]) for group, units in chosen]
    second = [(group, units[1::2]) for group, units in chosen if len(units) > 1]
    return [first, second] if second else []


def cut(box: Sandbox, chosen: Chosen) -> None:
    """Set the outgoing slots of the units to zero."""
    for group, units in chosen:
        box.fill(group.outgoing, units, 0.0)


def redraw(box: Sandbox, chosen: Chosen, scale: float) -> None:
    """Draw the incoming and norm entries of the units anew."""
    for group, units in chosen:
        box.redraw(group.incoming + group.norms, units, scale)


def about(chosen: Chosen, problem: str) -> Problems:
    """Return the same problem for every group."""
    return {group.name: f"units {units.tolist()}: {problem}" for group, units in chosen}
