"""Every way in which a right group can be made wrong, one mistake at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lightning_plasticity.units import Slot, UnitGroup

ROOMS = ("incoming", "norms", "outgoing")


def mutants(group: UnitGroup, others: list[UnitGroup], pair: list[int]) -> Iterator[tuple[str, UnitGroup]]:
    """Yield what was done to the group, and the wrong group.

    Args:
        group: The right group.
        others: They lend slots that do not belong to it.
        pair: Two units to exchange; one if there are no two.
    """
    for room in ROOMS:
        slots = getattr(group, room)
        for i, slot in enumerate(slots):
            where = f"{room} {slot.path}"
            if room == "norms" or len(slots) > 1:
                yield f"without {where}", _with(group, room, (*slots[:i], *slots[i + 1 :]))
            for what, wrong in _wrong_slots(slot, pair):
                yield f"{what} {where}", _with(group, room, (*slots[:i], wrong, *slots[i + 1 :]))
    for other in others:
        for room in ("incoming", "outgoing"):
            foreign = getattr(other, room)[0]
            if other.size >= group.size:
                less = replace(foreign, index=tuple(table[: group.size] for table in foreign.index))
                yield f"foreign {room} {foreign.path}", _with(group, room, (*getattr(group, room), less))
    if group.tap is not None and group.size > 1:
        yield "rolled tap", replace(group, tap=replace(group.tap, index=group.tap.index.roll(1, 0)))


def _with(group: UnitGroup, room: str, slots: tuple[Slot, ...]) -> UnitGroup:
    return replace(group, **{room: slots})


def _wrong_slots(slot: Slot, pair: list[int]) -> Iterator[tuple[str, Slot]]:
    size = slot.size
    if size > 1:
        exchanged = torch.arange(size)
        exchanged[pair] = torch.tensor(pair[::-1])
        yield "two units exchanged in", _at(slot, *(table[exchanged] for table in slot.index))
        yield "all units moved by one in", _at(slot, *(table.roll(1, 0) for table in slot.index))
        yield "another unit's too in", _at(slot, *(torch.cat([table, table.roll(1, 0)], 1) for table in slot.index))
    if slot.features > 1:
        yield "a feature too few in", _at(slot, *(table[:, 1:] for table in slot.index))
    if len(slot.dims) == 1:
        count = slot.tensor.shape[slot.dims[0]]
        free = sorted(set(range(count)) - set((slot.index[0] % count).flatten().tolist()))
        if len(free) >= size:
            yield "nobody's too in", _at(slot, torch.cat([slot.index[0], torch.tensor(free[:size])[:, None]], 1))


def _at(slot: Slot, *index: Tensor) -> Slot:
    return replace(slot, index=index)
