"""Whether a group has every entry that belongs to its units: what was forgotten would outlive a replacement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.effects import by_tensor, effects, largest_per_unit
from lightning_plasticity.units.proof.laws import Chosen, Problems, about, blamed, cut
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.unit_map import UnitMap

_PAIRS = 6
_CUT = 3


def incomplete(box: Sandbox, unit_map: UnitMap) -> tuple[Problems, list[UnitGroup]]:
    """Return the groups in which an entry of the units was forgotten.

    Two units of the same place that exchange all their entries leave the output as it is, unless an entry was
    forgotten; one such pair, of units that act on the output, shows that none was. Where no pair that is tried can be
    exchanged (each unit has a place of its own, such as the channel of a grouped convolution), :func:`forgotten` looks
    for entries that act through a single unit.

    Args:
        box: The model.
        unit_map: All groups. One with a single unit is left out: a whole model may act through this unit.

    Returns:
        What is wrong, by group, and the groups of which nothing can be told: fewer than two of their units act, or they
        cannot be exchanged and the output has no derivatives.
    """
    before = box.run()
    acting = _acting(box, [group for group in unit_map if group.size > 1], before)
    groups = [group for group in unit_map if len(acting.get(group.name, ())) > 1]

    def exchanged(box: Sandbox, chosen: Chosen) -> Problems:
        with box.edited():
            for group, units in chosen:
                box.swap(group.slots, units[:1], units[1:])
            change = difference(before, box.run())
        return {} if change <= box.tolerance else about(chosen, f"exchanged, they change the output by {change:.1e}")

    problems = blamed(exchanged, box, [(group, _pair(box, acting[group.name])) for group in groups])
    for group in [group for group in groups if group.name in problems]:
        pairs = (_pair(box, acting[group.name]) for _ in range(_PAIRS))
        if any(not exchanged(box, [(group, pair)]) for pair in pairs):
            del problems[group.name]
        elif not group.coupled:  # a norm lets entries act through all units, so nothing can be told of it
            missed = forgotten(box, group, unit_map)
            if missed is None:
                groups.remove(group)
            if missed:
                problems[group.name] += f"; each of {', '.join(missed)} has entries that act through one of them alone"
            else:
                del problems[group.name]
    return problems, [group for group in unit_map if group not in groups]


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


def _pair(box: Sandbox, units: Tensor) -> Tensor:
    """Return two of ``units``, the second one next to the first: likely of the same head, or group of channels."""
    first = int(units[box.choose(len(units), 1)])
    near = (units - (first ^ 1)).abs().masked_fill(units == first, len(units) + int(units.max()))
    return torch.stack([torch.tensor(first), units[near.argmin()]])


def forgotten(box: Sandbox, group: UnitGroup, unit_map: UnitMap) -> list[str] | None:
    """Return the tensors with entries that are said to write no unit, but act on the output through one unit alone.

    Such an entry has a derivative, and none once the outgoing slots of the unit are zero. A tensor counts if this is
    so for each of several units that act at all.

    Args:
        box: The model.
        group: The group.
        unit_map: All groups; what writes their units is theirs.

    Returns:
        Dotted names; None if it cannot be told, because there are no derivatives, or no unit has one.
    """
    tensors = dict(box.model.named_parameters()) | dict(box.model.named_buffers())
    free = {id(tensor): torch.ones(tensor.shape, dtype=torch.bool) for tensor in tensors.values()}
    for slot in (slot for other in unit_map for slot in other.incoming + other.norms):
        slot.assign(torch.arange(slot.size), 0.0, tensor=free[id(slot.tensor)])
    written = by_tensor(group.incoming + group.norms)
    alive = torch.zeros(group.size, dtype=torch.bool)
    acting: dict[int, Tensor] = {}

    def note(tensor: Tensor, effect: Tensor) -> None:
        acting[id(tensor)] = free[id(tensor)] & (effect > box.tolerance)
        for slot in written.get(id(tensor), ()):
            alive.logical_or_(largest_per_unit(slot, effect) > box.tolerance)

    def compare(tensor: Tensor, effect: Tensor) -> None:
        lost.update({id(tensor)} if (acting[id(tensor)] & (effect == 0)).any() else ())

    if not effects(box, note, statistics=True) or not alive.any():
        return None
    suspects = {id(tensor): path for path, tensor in tensors.items()}
    living = alive.nonzero()[:, 0]
    for unit in living[box.choose(len(living), _CUT)]:
        lost: set[int] = set()
        with box.edited():
            cut(box, [(group, unit[None])])
            effects(box, compare, statistics=True)
        suspects = {key: path for key, path in suspects.items() if key in lost}
    return list(suspects.values())
