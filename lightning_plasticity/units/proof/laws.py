"""The laws that hold of units, each checked on a model in a sandbox.

A law takes the sandbox and the chosen units of some groups and returns what it found wrong, by the name of the group.
:func:`jointly` checks a law for many groups at once and looks at single groups only where that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.proof.comparison import as_real, difference, is_one_number, moved_units
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.statistics import FrozenStatistics

Chosen = Sequence[tuple[UnitGroup, Tensor]]
Law = Callable[[Sandbox, Chosen], dict[str, str]]

_SCALES = (1.0, 10.0)
_ATTEMPTS = 4
_SATURATED = -1e3  # a bias that makes a sigmoid, a softplus or an exponential zero
_NEARLY_NOTHING = 1e-18  # a weight that carries nothing, but whose norm can be divided by


def jointly(law: Law, box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Check a law for all groups at once; if it fails, find the groups for which it fails alone.

    Args:
        law: The law.
        box: The model.
        chosen: Groups and units.

    Returns:
        The problems by group name; of all groups if the law holds for each one alone, but not for all together.
    """
    together = law(box, chosen)
    if not together or len(chosen) == 1:
        return together
    alone = separately(law, box, chosen)
    return alone or {name: f"together with other groups: {problem}" for name, problem in together.items()}


def separately(law: Law, box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Check a law for one group after the other.

    Args:
        law: The law.
        box: The model.
        chosen: Groups and units.

    Returns:
        The problems by group name.
    """
    problems: dict[str, str] = {}
    for one in chosen:
        problems |= law(box, [one])
    return problems


def independent(box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Return the groups whose redrawn units reach the output though their outgoing slots are zero."""
    frozen = _statistics(chosen)
    finite = False
    with box.edited():
        _cut(box, chosen)
        before = box.run(*frozen)
        for scale in _SCALES:
            with box.edited():
                _redraw(box, chosen, scale)
                _cut(box, chosen)  # a redrawn row of one unit may hold a column of another
                change = difference(before, box.run(*(f.replay() for f in frozen)))
            if change > box.tolerance:
                return _about(chosen, f"redrawn, they change the output by {change:.1e} though nothing reads them")
            finite |= change <= box.tolerance
    return {} if finite else _about(chosen, "no redraw leaves the output finite")


def sensitive(box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Return the groups of whose units no redraw reaches the output, though everything is in place."""
    before = box.run()
    for attempt in range(_ATTEMPTS):
        with box.edited():
            _redraw(box, chosen, _SCALES[attempt % 2])
            if difference(before, box.run()) > box.tolerance:
                return {}
    return _about(chosen, "redrawn, they do not change the output")


def minimal(box: Sandbox, group: UnitGroup, slot: Slot) -> bool:
    """Return whether, with all outgoing slots at zero but ``slot``, some redraw of units reaches the output.

    What a slot reads may reach the output only together with the other slots (a query with its key) or through the
    statistics of a norm; then ``slot`` is needed if it depends on the units what happens as it alone becomes zero.

    Args:
        box: The model.
        group: The group.
        slot: One of its outgoing slots.

    Returns:
        Whether the slot is needed.
    """
    others = [other for other in group.outgoing if other is not slot]
    for attempt in range(_ATTEMPTS):
        units = box.choose(group.size, 1 + attempt)
        frozen = _statistics([(group, units)])
        with box.edited():
            box.fill(others, units, 0.0)
            before = box.run(*frozen)
            _redraw(box, [(group, units)], _SCALES[attempt % 2])
            box.fill(others, units, 0.0)
            if difference(before, box.run(*(f.replay() for f in frozen))) > box.tolerance:
                return True
        if _carries(box, group, slot, units):
            return True
    return False


def _carries(box: Sandbox, group: UnitGroup, slot: Slot, units: Tensor) -> bool:
    """Return whether it depends on the numbers of ``units`` how the output changes as their ``slot`` becomes zero."""
    changes = []
    for scale in (0.0, 1.0):
        with box.edited():
            _redraw(box, [(group, units)] if scale else [], scale)
            before = box.run()
            box.fill([slot], units, 0.0)
            changes.append(
                [after - one for one, after in zip(map(as_real, before), map(as_real, box.run()), strict=True)]
            )
    return difference(changes[0], changes[1]) > box.tolerance


def exclusive(box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Return the groups in which the outgoing slots of units that carry nothing do carry something.

    Statistics are held constant, because a reader with weight norm scales all columns if one of them is set to zero.

    Args:
        box: The model.
        chosen: Groups and units.

    Returns:
        What is wrong, by group.
    """
    problems: dict[str, str] = {}
    for constant, weight in ((0.0, 0.0), (_SATURATED, 0.0), (0.0, _NEARLY_NOTHING)):
        frozen = FrozenStatistics()
        with box.edited():
            _silence(box, chosen, constant, weight)
            before = box.run(frozen)
            _cut(box, chosen)
            change = difference(before, box.run(frozen.replay()))
        if change <= box.tolerance and not any(output.isnan().any() for output in before):
            return {}
        problems = problems or _about(chosen, f"though they are silent, their outgoing slots add {change:.1e}")
    return problems


def self_contained(box: Sandbox, chosen: Chosen) -> bool | None:
    """Return whether units that carry nothing are constants where they are read, such as the cosine of zero.

    Every other weight and every input is moved; what the tap shows of the silent units must stay the same, or one
    number for all units and samples (the value that an activation function with own parameters has at zero).

    Args:
        box: The model.
        chosen: Groups and units.

    Returns:
        Whether nothing but the units is read; None if a group has no tap.
    """
    if any(group.tap is None for group, _ in chosen):
        return None
    frozen = FrozenStatistics()
    with box.edited():
        _silence(box, chosen, 0.0)
        before = _activations(box, chosen, frozen)
    with box.shaken(), box.edited():
        _silence(box, chosen, 0.0)
        after = _activations(box, chosen, frozen.replay())
    return all(
        not moved_units(before[group.name], after[group.name], box.tolerance)[units].any()
        or all(is_one_number(seen[:, units], box.tolerance) for seen in after[group.name])
        for group, units in chosen
    )


def disjoint(box: Sandbox, group: UnitGroup) -> list[str]:
    """Return the slots in which units share entries, or all of whose entries are outgoing ones of the same unit.

    Args:
        box: The model; it does not run.
        group: The group.

    Returns:
        What is wrong, one sentence per slot.
    """
    units = torch.arange(group.size)
    problems = []
    for slot in group.slots:
        with box.edited():
            entries = slot.gather(units)
            owners = units.reshape(-1, *(1 for _ in entries.shape[1:])).to(entries)
            box.assign(slot, units, owners)
            if (slot.gather(units) != owners).any():
                problems.append(f"{slot.path}: an entry belongs to two units")
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


def interchangeable(box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Return the groups in which exchanging all entries of a unit and its neighbour changes the output."""
    before = box.run()
    with box.edited():
        for group, units in chosen:
            box.swap(group.slots, units[:1], (units[:1] + 1) % group.size)
        change = difference(before, box.run())
    return {} if change <= box.tolerance else _about(chosen, f"exchanged, they change the output by {change:.1e}")


def tapped(box: Sandbox, chosen: Chosen) -> dict[str, str]:
    """Return the groups whose redrawn units do not change the tap, or (unless coupled) change it for other units."""
    chosen = [(group, units) for group, units in chosen if group.tap is not None]
    moved = {group.name: torch.zeros(group.size, dtype=torch.bool) for group, _ in chosen}
    with box.edited():
        _cut(box, chosen)  # so that nothing flows back into the tap
        before = _activations(box, chosen)
        for attempt in range(_ATTEMPTS if chosen else 0):
            with box.edited():
                _redraw(box, chosen, _SCALES[attempt % 2])
                _cut(box, chosen)
                after = _activations(box, chosen)
            for name in moved:
                moved[name] |= moved_units(before[name], after[name], box.tolerance)
    problems: dict[str, str] = {}
    for group, units in chosen:
        own = torch.zeros_like(moved[group.name])
        own[units] = True
        if not (moved[group.name] & own).any():
            problems[group.name] = f"units {units.tolist()}: redrawn, they do not change the tapped activation"
        elif (moved[group.name] & ~own).any() and not group.coupled:
            others = torch.where(moved[group.name] & ~own)[0].tolist()
            problems[group.name] = f"units {units.tolist()}: redrawn, they change the tapped activation of {others}"
    return problems


def _cut(box: Sandbox, chosen: Chosen) -> None:
    for group, units in chosen:
        box.fill(group.outgoing, units, 0.0)


def _silence(box: Sandbox, chosen: Chosen, constant: float, weight: float = 0.0) -> None:
    for group, units in chosen:
        box.silence(group.incoming + group.norms, units, constant, weight)


def _redraw(box: Sandbox, chosen: Chosen, scale: float) -> None:
    for group, units in chosen:
        box.redraw(group.incoming + group.norms, units, scale)


def _statistics(chosen: Chosen) -> list[FrozenStatistics]:
    return [FrozenStatistics()] if any(group.coupled for group, _ in chosen) else []


def _about(chosen: Chosen, problem: str) -> dict[str, str]:
    return {group.name: f"units {units.tolist()}: {problem}" for group, units in chosen}


def _activations(box: Sandbox, chosen: Chosen, *modes: FrozenStatistics) -> dict[str, list[Tensor]]:
    """Return what the tap of every group sees in one run, per call the features of every unit, ``[N, U, K]``."""
    seen: dict[str, list[Tensor]] = {group.name: [] for group, _ in chosen}

    def collect(name: str, tap: Tap, activation: Tensor) -> None:
        seen[name].append(tap.samples(activation.detach())[:, tap.index.to(activation.device)].clone())

    with ExitStack() as stack:
        for group, _ in chosen:
            if group.tap is not None:
                stack.callback(group.tap.watch(partial(collect, group.name, group.tap)).remove)
        box.run(*modes)
    return seen
