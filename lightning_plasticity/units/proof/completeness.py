"""Whether a group has every entry that belongs to its units: what was forgotten would outlive a replacement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.effects import by_tensor, effects, largest_per_unit
from lightning_plasticity.units.proof.forgotten import forgotten
from lightning_plasticity.units.proof.laws import Chosen, Law, Problems, about, blamed, cut
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.unit_map import UnitMap

_PAIRS = 6
_DRAWS, _MOST_DRAWS = 3, 10


def incomplete(box: Sandbox, unit_map: UnitMap) -> tuple[Problems, list[UnitGroup]]:
    """Return the groups in which an entry of the units was forgotten.

    Units that exchange all their entries leave the output as it is, unless an entry was forgotten. As many as there are
    do so at once, of those that act on the output; and since a unit that is dead with one set of weights vouches for
    nothing, with several sets. Where the output changes, an entry was forgotten or the units differ in place, such as
    the channels of a depthwise convolution: :func:`~lightning_plasticity.units.proof.forgotten.forgotten` tells which.

    Args:
        box: The model; its weights are redrawn and stay so.
        unit_map: All groups. One with a single unit is left out: a whole model may act through this unit.

    Returns:
        What is wrong, by group, and the groups of which nothing can be told: fewer than two of their units ever act, or
        they cannot be exchanged and the output has no derivatives.
    """
    problems: Problems = {}
    in_place: Problems = {}  # groups whose units differ in place while nothing was forgotten
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
        exchangeable = [(group, units) for group, units in chosen if group.name not in in_place]
        differing = in_place | blamed(_exchanged(before), box, exchangeable)
        by_place = [group for group, _ in chosen if group.name in differing and not group.coupled]
        missing = forgotten(box, by_place, unit_map)
        in_place |= {name: differing[name] for name, missed in missing.items() if missed == []}
        for group, _ in chosen:
            name, missed = group.name, missing.get(group.name)
            if missed:
                each = f"each of {', '.join(missed)} has entries that act through one of them alone"
                problems[name] = f"{differing[name]}; {each}"
            elif name not in differing or missed is not None or _any_are_alike(box, group, acting[name]):
                untold.pop(name, None)
            elif group.coupled:
                problems[name] = differing[name]
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
    tried = {group: box.choose(group.size, 2 * _PAIRS) for group in groups if group.name not in acting}
    loud = blamed(_unchanged(before), box, [*tried.items()])
    for group, units in tried.items():
        if group.name in loud:
            units = units[[bool(_unchanged(before)(box, [(group, unit[None])])) for unit in units]]
        acting[group.name] = units if group.name in loud else units[:0]
    return acting


def _unchanged(before: Sequence[Tensor]) -> Law:
    """Return the law that the output is still ``before`` when nothing reads the units."""

    def unchanged(box: Sandbox, chosen: Chosen) -> Problems:
        with box.edited():
            cut(box, chosen)
            change = difference(before, box.run())
        return about(chosen, "they act on the output") if change > box.tolerance else {}

    return unchanged


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
