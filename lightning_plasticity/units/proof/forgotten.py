"""Which entries of units were forgotten, where the units differ in place and cannot be exchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.proof.effects import Listener, by_tensor, effects, largest_per_unit
from lightning_plasticity.units.proof.laws import Chosen, Law, Problems, about, blamed, cut
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.proof.unread import Owned
from lightning_plasticity.units.unit_map import UnitMap

_TRIED, _SEVERAL = 8, 2
_CONFIRMATIONS = 10

Entries: TypeAlias = dict[int, Tensor]
"""Some entries of some tensors: a mask by the ``id`` of the tensor."""


class _Idle(NamedTuple):
    """Entries that do not act but through one unit, and whether it is certain that they come before it."""

    entries: Entries
    is_before: bool


def forgotten(box: Sandbox, groups: Sequence[UnitGroup], unit_map: UnitMap) -> dict[str, list[str] | None]:
    """Return the tensors with entries that are said to write no unit, but act on the output through one unit alone.

    Such an entry has a derivative, and none but that which is passed on by what reads the unit. It acts beside the
    weights of the unit, not only through them: of several features that one unit alone reads (a convolution may have
    groups of one row), each acts through the unit, but is none of it. A tensor counts if this is so for several units.
    With one set of weights it may be chance (the other readers of the entry are dead), so it has to be so with others.

    One unit of every group at a time is left out of the derivatives, of all groups at once: what has no derivative then
    is all that has none if they are left out one by one, and more. Only if there is any, this is done.

    Args:
        box: The model; its weights are redrawn if anything is found, and stay so.
        groups: The groups.
        unit_map: All groups; what writes their units is theirs.

    Returns:
        Dotted names by name of the group; None if it cannot be told, because there are no derivatives, no unit has
        one, or such an entry may come after the unit as well as before.
    """
    tensors = dict(box.model.named_parameters()) | dict(box.model.named_buffers())
    alive, acting = _alive(box, groups, _free(tensors, unit_map)) if groups else ({}, {})
    found = {
        group: {unit: _without(box, group, unit, _beside(box, group, unit, acting)) for unit in alive[group].tolist()}
        for group in _suspects(box, alive, acting)
    }
    several = {group: min(_SEVERAL, len(units)) for group, units in alive.items()}
    for _ in range(_CONFIRMATIONS):
        found = {group: units for group, units in found.items() if _counted(units, several[group])}
        if found:
            box.redraw_weights()
        for group, units in found.items():  # what comes before a unit is told by the weights with which it is alive
            left = {unit: _without(box, group, unit, idle.entries).entries for unit, idle in units.items()}
            found[group] = {unit: _Idle(left[unit], idle.is_before) for unit, idle in units.items()}
    paths = {id(tensor): path for path, tensor in tensors.items()}
    told: dict[str, list[str] | None] = {group.name: None for group in groups} | {group.name: [] for group in alive}
    for group, units in found.items():
        before = {unit: idle for unit, idle in units.items() if idle.is_before}
        if _counted(units, several[group]):
            told[group.name] = sorted(paths[tensor] for tensor in _counted(before, several[group])) or None
    return told


def _counted(units: dict[int, _Idle], several: int) -> list[int]:
    """Return the tensors that are found with several units."""
    times = Counter(tensor for idle in units.values() for tensor in idle.entries)
    return [tensor for tensor, count in times.items() if count >= several]


def _free(tensors: dict[str, Tensor], unit_map: UnitMap) -> Entries:
    """Return the entries that are said to write no unit, of tensors that have any."""
    written = by_tensor(slot for group in unit_map for slot in group.incoming + group.norms)
    free: Entries = {}
    for tensor in tensors.values():
        mask = torch.ones_like(tensor, dtype=torch.bool)
        for slot in written.get(id(tensor), ()):
            slot.assign(torch.arange(slot.size, device="cpu"), 0.0, tensor=mask)
        if mask.any():
            free[id(tensor)] = mask
    return free


def _alive(box: Sandbox, groups: Sequence[UnitGroup], free: Entries) -> tuple[dict[UnitGroup, Tensor], Entries]:
    """Return some units of each group that act on the output, of groups that have any, and the free entries that do."""
    written = by_tensor(slot for group in groups for slot in group.incoming + group.norms)
    owners = {id(slot): group for group in groups for slot in group.incoming + group.norms}
    alive: dict[UnitGroup, Tensor] = {}
    acting: Entries = {}

    def note(tensor: Tensor, effect: Tensor) -> None:
        if id(tensor) in free:
            acting[id(tensor)] = free[id(tensor)] & (effect > box.tolerance)
        for slot in written.get(id(tensor), ()):
            acts = (largest_per_unit(slot, effect) > box.tolerance).cpu()
            group = owners[id(slot)]
            alive[group] = alive.get(group, torch.zeros_like(acts)) | acts

    if not effects(box, note, statistics=True):
        return {}, {}
    units = {group: acts.nonzero()[:, 0] for group, acts in alive.items() if acts.any()}
    return {group: those[box.choose(len(those), _TRIED)] for group, those in units.items()}, acting


def _suspects(box: Sandbox, alive: dict[UnitGroup, Tensor], acting: Entries) -> list[UnitGroup]:
    """Return the groups of which some unit, left out of the derivatives, leaves none to an entry."""
    law, names = _leaves_some(acting), set[str]()
    for unit in range(_TRIED):
        chosen = [(group, units[unit : unit + 1]) for group, units in alive.items() if group.name not in names]
        names |= blamed(law, box, [(group, units) for group, units in chosen if len(units)]).keys()
    return [group for group in alive if group.name in names]


def _leaves_some(acting: Entries) -> Law:
    """Return the law that every entry acts through more than the units, and the units through what reads them."""

    def leaves_some(box: Sandbox, chosen: Chosen) -> Problems:
        left = _without_all(box, chosen, acting)
        return about(chosen, "an entry acts through a unit alone") if left is None or left else {}

    return leaves_some


def _without(box: Sandbox, group: UnitGroup, unit: int, entries: Entries) -> _Idle:
    """Return those of ``entries`` that do not act but through ``unit``, with these weights.

    If derivatives cannot leave out what reads the unit, it is set to zero; then what comes after the unit may be idle
    too, so the tap has to show that an entry comes before.
    """
    chosen = [(group, torch.tensor([unit], device="cpu"))]
    left = _without_all(box, chosen, entries)
    if left is not None:
        return _Idle(left, is_before=True)
    with box.edited():
        cut(box, chosen)
        left = _idle(box, chosen, entries, unread=False)
    before = _acting(box, left, seen=(group.tap, chosen[0][1])) if group.tap is not None else {}
    return _Idle(before or left, is_before=bool(before))


def _beside(box: Sandbox, group: UnitGroup, unit: int, entries: Entries) -> Entries:
    """Return those of ``entries`` that act on the output otherwise than through the weights of ``unit``."""
    rows = [(slot, torch.tensor([unit], device="cpu")) for slot in group.incoming if slot.kind == "weight"]
    return _acting(box, entries, beside=rows)


def _acting(box: Sandbox, entries: Entries, *, beside: Owned = (), seen: tuple[Tap, Tensor] | None = None) -> Entries:
    """Return those of ``entries`` that act on the output, or on what the tap shows of the units."""
    acting: Entries = {}

    def note(tensor: Tensor, effect: Tensor) -> None:
        if id(tensor) in entries:
            acting[id(tensor)] = entries[id(tensor)] & (effect > 0)

    effects(box, note, statistics=True, beside=beside, seen=seen)
    return _not_empty(acting)


def _without_all(box: Sandbox, chosen: Chosen, entries: Entries) -> Entries | None:
    """Return those of ``entries`` that do not act but through the units, each one of its group.

    None if the units act through something else than what reads them, such as a weight that is computed from it.
    """
    written = by_tensor(slot for group, _ in chosen for slot in group.incoming + group.norms)
    only = {id(slot): int(unit) for group, unit in chosen for slot in group.incoming + group.norms}
    passed_on: list[bool] = []

    def look(tensor: Tensor, effect: Tensor) -> None:
        passed_on.extend(bool(largest_per_unit(slot, effect)[only[id(slot)]]) for slot in written.get(id(tensor), ()))

    left = _idle(box, chosen, entries, look=look)
    return None if any(passed_on) else left


def _idle(
    box: Sandbox, chosen: Chosen, entries: Entries, *, unread: bool = True, look: Listener | None = None
) -> Entries:
    """Return those of ``entries`` that have no effect, but for those that read the units.

    Args:
        box: The model.
        chosen: The units. Two factors of a weight that reads them have no effect but through each other.
        entries: The entries.
        unread: Whether to leave out what acts through what reads the units.
        look: Receives all effects as well.
    """
    idle = dict(entries)
    reading = by_tensor(slot for group, _ in chosen for slot in group.outgoing)
    units = {id(slot): those for group, those in chosen for slot in group.outgoing}

    def note(tensor: Tensor, effect: Tensor) -> None:
        if id(tensor) in idle:
            mask = idle[id(tensor)] = idle[id(tensor)] & (effect == 0)
            for slot in reading.get(id(tensor), ()):
                slot.assign(units[id(slot)], 0.0, tensor=mask)
        if look is not None:
            look(tensor, effect)

    effects(box, note, statistics=True, unread=chosen if unread else ())
    return _not_empty(idle)


def _not_empty(entries: Entries) -> Entries:
    return {tensor: mask for tensor, mask in entries.items() if mask.any()}
