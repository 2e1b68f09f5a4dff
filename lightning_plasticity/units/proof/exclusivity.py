"""Whether what is said to read units reads nothing else."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference, is_one_number, moved_units
from lightning_plasticity.units.proof.computed_weights import changes
from lightning_plasticity.units.proof.laws import Chosen, Problems, about, cut, halves, redraw
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.proof.watching import activations
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.statistics import FrozenStatistics

_PAIRS = 6

Silence: TypeAlias = Literal["zero", "saturated", "computed"]

SILENCES: tuple[Silence, ...] = ("zero", "saturated", "computed")
"""Ways to let units carry nothing. *zero*: all that is written to them. *saturated*: as well, but for a bias of -1000,
which makes a sigmoid, a softplus or an exponential zero. *computed*: as well, and the weights that are computed from
what is written to them, since no entry makes a softmax or an exponential zero."""

_SATURATED = -1e3


def exclusive(box: Sandbox, chosen: Chosen, how: Silence = "zero") -> Problems:
    """Return the groups in which the outgoing slots of units that carry nothing do carry something.

    Statistics are held constant, because a reader with weight norm scales all columns if one of them is set to zero.

    Args:
        box: The model.
        chosen: Groups and units.
        how: How to let the units carry nothing, one of :data:`SILENCES`.

    Returns:
        What is wrong, by group.
    """
    if not chosen:
        return {}
    frozen = FrozenStatistics()
    zeroed = [computed_from(box, chosen)] if how == "computed" else []
    with box.edited():
        silence(box, chosen, _SATURATED if how == "saturated" else 0.0)
        before = box.run(frozen, *map(box.computed_weights, zeroed))
        cut(box, chosen)
        after = box.run(frozen.replay(), *map(box.computed_weights, zeroed))
    change = difference(before, after)
    if change <= box.tolerance and box.is_finite(before):
        return {}
    if box.is_finite(before) and not box.is_finite(after) and (parts := halves(chosen)):
        return exclusive(box, parts[0], how) | exclusive(box, parts[1], how)
    return about(chosen, f"though they are silent, their outgoing slots add {change:.1e}")


def computed_from(box: Sandbox, chosen: Chosen) -> list[Tensor]:
    """Return which entries of computed weights depend on what is written to the units, a mask per weight."""
    runs = []
    with box.edited():
        for _ in range(2):
            redraw(box, chosen, 1.0)
            cut(box, chosen)
            watching = box.computed_weights()
            box.run(watching)
            runs.append(watching.met)
    return changes(*runs)


def self_contained(box: Sandbox, group: UnitGroup, units: Tensor) -> bool | None:
    """Return whether units that carry nothing are constants where they are read, such as the cosine of zero.

    Two things show it. As every other weight and every input is moved, what the tap shows of the silent units stays the
    same, or one number for all units and samples (the value that an activation function with own parameters has at
    zero). And two silent units may exchange their entries of any outgoing slot, also of those that the tap does not
    show, since both are read as the same constant.

    Args:
        box: The model.
        group: The group.
        units: Units of it.

    Returns:
        Whether nothing but the units is read; None if nothing can be told: without a tap, or if no two units add what
        could be compared.
    """
    if group.tap is None:
        return None
    at_the_reader = group.tap.where == "input" and group.tap.module is group.outgoing[0].module
    frozen, chosen = FrozenStatistics(), [(group, units)]
    with box.edited():
        silence(box, chosen)
        (before,) = activations(box, chosen, frozen).values()
    with box.shaken(), box.edited():
        silence(box, chosen)
        (after,) = activations(box, chosen, frozen.replay()).values()
    if not before or not after:
        return None
    if len(group.outgoing) == 1 and at_the_reader and not any(seen[:, units].any() for seen in before):
        return False  # the only reader sees zeros, so it is not a constant of the units that it adds
    moved = moved_units(before, after, box.tolerance)[units].any()
    if moved and not all(is_one_number(seen[:, units], box.tolerance) for seen in after):
        return False
    if len(group.outgoing) == 1:
        return True
    verdicts = [_is_read_alike(box, group, units, slot) for slot in group.outgoing]
    return False if False in verdicts else None if None in verdicts else True


def _is_read_alike(box: Sandbox, group: UnitGroup, units: Tensor, slot: Slot) -> bool | None:
    """Return whether ``slot`` adds nothing while ``units`` are silent, or the same for every unit: the two of a pair.

    None if nothing was added by any pair that was tried. One pair is enough, as others may differ in place.
    """
    if not _adds(box, group, units, slot):
        return True
    verdict = None
    for first in units[box.choose(len(units), _PAIRS)].tolist() if group.size > 1 else []:
        pair = units.new_tensor([first, first ^ 1 if first ^ 1 < group.size else first - 1])  # likely of the same head
        if _adds(box, group, pair, slot):
            verdict = not _tells_apart(box, group, pair, slot)
        if verdict:
            break
    return verdict


def _adds(box: Sandbox, group: UnitGroup, units: Tensor, slot: Slot) -> bool:
    """Return whether ``slot`` adds something to the output while ``units`` are silent."""
    frozen = FrozenStatistics()
    with box.edited():
        silence(box, [(group, units)])
        before = box.run(frozen)
        box.fill([slot], units, 0.0)
        return not difference(before, box.run(frozen.replay())) <= box.tolerance


def _tells_apart(box: Sandbox, group: UnitGroup, pair: Tensor, slot: Slot) -> bool:
    """Return whether it makes a difference that two silent units exchange their entries of ``slot``."""
    frozen = FrozenStatistics()
    with box.edited():
        silence(box, [(group, pair)])
        before = box.run(frozen)
        box.swap([slot], pair[:1], pair[1:])
        return not difference(before, box.run(frozen.replay())) <= box.tolerance


def silence(box: Sandbox, chosen: Chosen, bias: float = 0.0) -> None:
    """Let the units carry nothing, or what their activation function makes of nothing."""
    for group, units in chosen:
        box.silence(group.incoming + group.norms, units, bias)


def disjoint(box: Sandbox, group: UnitGroup) -> list[str]:
    """Return the slots in which units share entries, or all of whose entries are outgoing ones of the same unit.

    Some entries may be both: ``x + linear(x)`` and ``x * linear(x)`` have one such weight per unit.

    Args:
        box: The model; it does not run.
        group: The group.

    Returns:
        What is wrong, one sentence per slot.
    """
    problems = [f"{slot.path}: an entry belongs to two units" for slot in group.slots if not slot.is_disjoint]
    one = box.choose(group.size, 1)
    with box.edited():
        box.fill(group.incoming, one, 1.0)
        box.fill(group.outgoing, one, 0.0)
        problems += [
            f"{slot.path}: its entries are read where they are written (tied weights)"
            for slot in group.incoming
            if not slot.gather(one).any()
        ]
    return problems
