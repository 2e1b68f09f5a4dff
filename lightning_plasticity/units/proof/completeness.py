"""Whether a group has every entry that belongs to its units: what was forgotten would outlive a replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.effects import by_tensor, effects, largest_per_unit
from lightning_plasticity.units.proof.laws import Chosen, Problems, about, blamed, cut, neighbours
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.unit_map import UnitMap

_PAIRS = 6
_CUT = 3


def incomplete(box: Sandbox, unit_map: UnitMap) -> Problems:
    """Return the groups in which an entry of the units was forgotten.

    Two units of the same place that exchange all their entries leave the output as it is, unless an entry was
    forgotten; one such pair shows that none was. Where no pair that is tried can be exchanged (each unit has a place of
    its own, such as the channel of a grouped convolution), :func:`forgotten` looks for entries that act through a
    single unit.

    Args:
        box: The model.
        unit_map: All groups. One with a single unit is left out: a whole model may act through this unit.

    Returns:
        What is wrong, by group.
    """
    groups = [group for group in unit_map if group.size > 1]
    before = box.run()

    def exchanged(box: Sandbox, chosen: Chosen) -> Problems:
        with box.edited():
            for group, units in chosen:
                box.swap(group.slots, units[:1], units[1:])
            change = difference(before, box.run())
        return {} if change <= box.tolerance else about(chosen, f"exchanged, they change the output by {change:.1e}")

    problems = blamed(exchanged, box, [(group, neighbours(box, group)) for group in groups])
    for group in [group for group in groups if group.name in problems]:
        pairs = (neighbours(box, group) for _ in range(_PAIRS))
        if any(not exchanged(box, [(group, pair)]) for pair in pairs):
            del problems[group.name]
        elif not group.coupled:  # a norm treats its units alike, so coupled ones have to be exchangeable
            missed = forgotten(box, group, unit_map)
            problems[group.name] += f"; each of {', '.join(missed)} has entries that act through one of them alone"
            if not missed:
                del problems[group.name]
    return problems


def forgotten(box: Sandbox, group: UnitGroup, unit_map: UnitMap) -> list[str]:
    """Return the tensors with entries that are said to write no unit, but act on the output through one unit alone.

    Such an entry has a derivative, and none once the outgoing slots of the unit are zero. A tensor counts if this is
    so for each of several units that act at all.

    Args:
        box: The model.
        group: The group.
        unit_map: All groups; what writes their units is theirs.

    Returns:
        Dotted names.
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
        return []
    suspects = {id(tensor): path for path, tensor in tensors.items()}
    living = alive.nonzero()[:, 0]
    for unit in living[box.choose(len(living), _CUT)]:
        lost: set[int] = set()
        with box.edited():
            cut(box, [(group, unit[None])])
            effects(box, compare, statistics=True)
        suspects = {key: path for key, path in suspects.items() if key in lost}
    return list(suspects.values())
