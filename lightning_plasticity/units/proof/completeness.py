"""Whether a group has every entry that belongs to its units: what was forgotten would outlive a replacement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.effects import by_tensor, effects, largest_per_unit
from lightning_plasticity.units.proof.laws import Chosen, Law, Problems, about, blamed, cut
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.unit_map import UnitMap

_PAIRS = 6
_DRAWS, _MOST_DRAWS = 3, 10
_TRIED, _SEVERAL = 8, 2

Entries: TypeAlias = dict[int, Tensor]
"""Some entries of some tensors: a mask by the ``id`` of the tensor."""


def incomplete(box: Sandbox, unit_map: UnitMap) -> tuple[Problems, list[UnitGroup]]:
    """Return the groups in which an entry of the units was forgotten.

    Units that exchange all their entries leave the output as it is, unless an entry was forgotten. As many as there are
    do so at once, of those that act on the output; and since a unit that is dead with one set of weights vouches for
    nothing, with several sets. Where the output changes, an entry was forgotten or the units differ in place, such as
    the channels of a depthwise convolution: :func:`forgotten` tells which.

    Args:
        box: The model; its weights are redrawn and stay so.
        unit_map: All groups. One with a single unit is left out: a whole model may act through this unit.

    Returns:
        What is wrong, by group, and the groups of which nothing can be told: fewer than two of their units ever act, or
        they cannot be exchanged and the output has no derivatives.
    """
    problems: Problems = {}
    untold, asleep = {group.name: group for group in unit_map}, {group.name for group in unit_map if group.size > 1}
    for draw in range(_MOST_DRAWS):
        if draw >= _DRAWS and not asleep:
            break
        box.redraw_weights()
        before = box.run()
        names = {group.name for group in unit_map} - problems.keys() if draw < _DRAWS else asleep
        groups = [group for group in unit_map if group.size > 1 and group.name in names]
        acting = _acting(box, groups, before)
        chosen = [(group, _pairs(acting[group.name])) for group in groups if len(acting[group.name]) > 1]
        asleep -= {group.name for group, _ in chosen}
        differing = blamed(_exchanged(before), box, chosen)
        for group, _ in chosen:
            missed = None if group.coupled or group.name not in differing else forgotten(box, group, unit_map)
            if missed:
                each = f"each of {', '.join(missed)} has entries that act through one of them alone"
                problems[group.name] = f"{differing[group.name]}; {each}"
            elif missed is None and group.name in differing and not _any_are_alike(box, group, acting[group.name]):
                problems |= {group.name: differing[group.name]} if group.coupled else {}
            else:
                untold.pop(group.name, None)
    return problems, list(untold.values())


def _exchanged(before: Sequence[Tensor]) -> Law:
    """Return the law that the output is still ``before`` when the first half of the units and the second half swap."""

    def exchanged(box: Sandbox, chosen: Chosen) -> Problems:
        with box.edited():
            for group, units in chosen:
                box.swap(group.slots, *units.chunk(2))
            change = difference(before, box.run())
        return {} if change <= box.tolerance else about(chosen, f"exchanged, they change the output by {change:.1e}")

    return exchanged


def _any_are_alike(box: Sandbox, group: UnitGroup, units: Tensor) -> bool:
    """Return whether two of the units can be exchanged with any weights: one such pair, and others differ in place."""
    return any(_are_alike(box, group, _pair(box, units)) for _ in range(_PAIRS))


def _are_alike(box: Sandbox, group: UnitGroup, pair: Tensor) -> bool:
    for _ in range(_DRAWS):
        box.redraw_weights()
        if _exchanged(box.run())(box, [(group, pair)]):
            return False
    return True


def _acting(box: Sandbox, groups: Sequence[UnitGroup], before: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the numbers of the units of each group that act on the output: by derivatives, else of some by a trial."""
    found: dict[str, Tensor] = {}
    reading = by_tensor(slot for group in groups for slot in group.outgoing)
    names = {id(slot): group.name for group in groups for slot in group.outgoing}

    def note(tensor: Tensor, effect: Tensor) -> None:
        for slot in reading.get(id(tensor), ()):
            acts = (largest_per_unit(slot, effect) > box.tolerance).cpu()
            found[names[id(slot)]] = found.get(names[id(slot)], torch.zeros_like(acts)) | acts

    effects(box, note)
    acting = {name: acts.nonzero()[:, 0] for name, acts in found.items()}
    for group in groups:
        if group.name not in acting:
            tried = box.choose(group.size, 2 * _PAIRS)
            acting[group.name] = tried[[_acts(box, group, unit[None], before) for unit in tried]]
    return acting


def _acts(box: Sandbox, group: UnitGroup, unit: Tensor, before: Sequence[Tensor]) -> bool:
    with box.edited():
        cut(box, [(group, unit)])
        return difference(before, box.run()) > box.tolerance


def _pairs(units: Tensor) -> Tensor:
    """Return the units in two halves to be exchanged: neighbours (likely of the same head) as far as both are there."""
    even = units[torch.isin(units + 1, units) & (units % 2 == 0)]
    rest = units[~torch.isin(units, torch.cat([even, even + 1]))]
    half = len(rest) // 2
    return torch.cat([even, rest[:half], even + 1, rest[half : 2 * half]])


def _pair(box: Sandbox, units: Tensor) -> Tensor:
    """Return two of ``units``, the second one next to the first."""
    first = int(units[box.choose(len(units), 1)])
    near = (units - (first ^ 1)).abs().masked_fill(units == first, len(units) + int(units.max()))
    return units.new_tensor([first, int(units[near.argmin()])])


def forgotten(box: Sandbox, group: UnitGroup, unit_map: UnitMap) -> list[str] | None:
    """Return the tensors with entries that are said to write no unit, but act on the output through one unit alone.

    A tensor counts if this is so for several units. With one set of weights it may be chance (the other readers of the
    entry are dead), so the entries must not act through anything else with other weights either.

    Args:
        box: The model; its weights are redrawn if anything is found, and stay so.
        group: The group.
        unit_map: All groups; what writes their units is theirs.

    Returns:
        Dotted names; None if it cannot be told, because there are no derivatives, or no unit has one.
    """
    tensors = dict(box.model.named_parameters()) | dict(box.model.named_buffers())
    free = {id(tensor): torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors.values()}
    for slot in (slot for other in unit_map for slot in other.incoming + other.norms):
        slot.assign(torch.arange(slot.size, device="cpu"), 0.0, tensor=free[id(slot.tensor)])
    found = _acting_through_one(box, group, free)
    if found is None:
        return None
    several = min(_SEVERAL, len(found))
    for _ in range(_MOST_DRAWS):
        times = Counter(tensor for entries in found.values() for tensor in entries)
        if not any(count >= several for count in times.values()):
            return []
        box.redraw_weights()
        found = {unit: _without(box, group, unit, entries) for unit, entries in found.items()}
    times = Counter(tensor for entries in found.values() for tensor in entries)
    return [path for path, tensor in tensors.items() if times[id(tensor)] >= several]


def _acting_through_one(box: Sandbox, group: UnitGroup, free: Entries) -> dict[int, Entries] | None:
    """Return for some units which of the ``free`` entries act through this one alone, with these weights.

    Such an entry has a derivative, and none that is passed on by what reads the unit; and it has one where a tap shows
    the unit, so it comes before. None if there are no derivatives, or no unit has one.
    """
    written = by_tensor(group.incoming + group.norms)
    alive = torch.zeros(group.size, dtype=torch.bool, device="cpu")
    acting: Entries = {}

    def note(tensor: Tensor, effect: Tensor) -> None:
        acting[id(tensor)] = free[id(tensor)] & (effect > box.tolerance)
        for slot in written.get(id(tensor), ()):
            alive.logical_or_((largest_per_unit(slot, effect) > box.tolerance).cpu())

    if not effects(box, note, statistics=True) or not alive.any():
        return None
    living = alive.nonzero()[:, 0]
    found = {}
    for unit in living[box.choose(len(living), _TRIED)].tolist():
        writing = acting
        if group.tap is not None:
            writing = {}

            def note_writers(tensor: Tensor, effect: Tensor, writing: Entries = writing) -> None:
                writing[id(tensor)] = acting[id(tensor)] & (effect > 0)

            effects(box, note_writers, statistics=True, seen=(group.tap, torch.tensor([unit], device="cpu")))
        found[unit] = _without(box, group, unit, writing)
    return found


def _without(box: Sandbox, group: UnitGroup, unit: int, entries: Entries) -> Entries:
    """Return those of ``entries`` that do not act through anything but ``unit``, with these weights."""
    only = torch.tensor([unit], device="cpu")
    written = by_tensor(group.incoming + group.norms)
    left: Entries = {}
    passed_on: list[bool] = []

    def compare(tensor: Tensor, effect: Tensor) -> None:
        if id(tensor) in entries:
            left[id(tensor)] = entries[id(tensor)] & (effect == 0)
        passed_on.extend(bool(largest_per_unit(slot, effect)[unit]) for slot in written.get(id(tensor), ()))

    effects(box, compare, statistics=True, unread=(group.outgoing, only))
    if any(passed_on):  # by a reader with a computed weight
        if group.tap is None:
            return {}
        with box.edited():
            cut(box, [(group, only)])
            effects(box, compare, statistics=True)
    return {tensor: mask for tensor, mask in (entries | left).items() if mask.any()}
