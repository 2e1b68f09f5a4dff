"""Whether units matter, and whether each of their outgoing slots does: by derivatives, else by changing the slots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import as_real, difference
from lightning_plasticity.units.proof.effects import effects, largest
from lightning_plasticity.units.proof.laws import redraw
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.slot import Slot

_DRAWS = 12
_SCALES = (1.0, 10.0)
_TRIED = 6


class Unneeded(NamedTuple):
    """Groups that do not matter, and by name of the group outgoing slots that do not read its units.

    Of ``inert`` slots this cannot be told: no entry of their weight acts on the output.
    """

    groups: list[UnitGroup]
    slots: dict[str, list[Slot]]
    inert: dict[str, list[Slot]]


def unneeded(box: Sandbox, groups: Sequence[UnitGroup], modes: Sequence[bool]) -> Unneeded:
    """Return the groups that do not matter, and for each group the outgoing slots that do not read its units.

    One backward pass gives the derivative of the output with respect to every entry of every slot. Where one is not
    zero, the output depends on the entry; and since outgoing entries do nothing while the unit is silent (exclusivity),
    an outgoing slot on which the output depends reads the units. Where all are zero with several sets of weights (dead
    units, a step function, a model that cannot be differentiated), the slots are changed and the model is run. A slot
    may be read with some weights only (that of an expert), or in one mode only (that of an auxiliary head); that is
    enough. Of a weight whose result is thrown away it cannot be told what it reads.

    Args:
        box: The model; its weights are redrawn if need be, and stay so.
        groups: The groups.
        modes: The modes to try, ``training`` or not.

    Returns:
        The groups and slots that are not needed.
    """
    acting: set[int] = set()
    idle, vain = list(groups), {group.name: list(group.outgoing) for group in groups}
    for draw in range(_DRAWS):
        if not idle and not any(vain.values()):
            break
        if draw:
            box.redraw_weights()
        for training in modes:
            box.training = training
            act = _acting(box, [*chain.from_iterable(group.slots for group in groups)], acting)
            idle = [group for group in idle if not any(id(slot) in act for slot in group.incoming + group.norms)]
            vain = {name: [slot for slot in slots if id(slot) not in act] for name, slots in vain.items()}
    for training in modes:
        box.training = training
        idle = [group for group in idle if not _is_sensitive(box, group)]
        vain = {group.name: [slot for slot in vain[group.name] if not _is_needed(box, group, slot)] for group in groups}
    resting = {name: [slot for slot in slots if id(slot.tensor) not in acting] for name, slots in vain.items()}
    inert = {name: [slot for slot in slots if _is_inert(box, slot, modes)] for name, slots in resting.items()}
    box.training = False
    vain = {name: [slot for slot in slots if slot not in inert[name]] for name, slots in vain.items()}
    return Unneeded(idle, vain, inert)


def _acting(box: Sandbox, slots: Sequence[Slot], acting: set[int]) -> set[int]:
    """Return the ``id`` of all slots of which some entry changes the output, to first order.

    Those of tensors of which some entry has a derivative are added to ``acting``.
    """
    found, listener = largest(slots)

    def note(tensor: Tensor, effect: Tensor) -> None:
        acting.update({id(tensor)} if (effect > box.tolerance).any() else ())
        listener(tensor, effect)

    differentiable = effects(box, note)
    return {slot for slot, effect in found.items() if effect > box.tolerance} if differentiable else set()


def _is_inert(box: Sandbox, slot: Slot, modes: Sequence[bool]) -> bool:
    """Return whether the model computes with the tensor of ``slot``, but its output does not depend on any entry."""
    rows = torch.arange(slot.tensor.shape[0], device="cpu")
    whole = Slot(slot.module, slot.name, slot.path, (0,), (rows[:, None],))
    is_used = False
    for training in modes:
        box.training = training
        uses = _Uses(slot.tensor)
        before = box.run(uses)
        is_used |= uses.any
        with box.edited():
            box.redraw([whole], rows)
            if not difference(before, box.run()) <= box.tolerance:
                return False
    return is_used


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells whether any operation of a run takes ``tensor`` or a view of it."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storage = tensor.untyped_storage().data_ptr()
        self.any = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        self.any |= any(tensor.untyped_storage().data_ptr() == self._storage for tensor in taken)
        return func(*args, **(kwargs or {}))


def _is_sensitive(box: Sandbox, group: UnitGroup) -> bool:
    """Return whether redrawn units change the output, with everything in place; several are tried: some are dead."""
    before = box.run()
    for attempt in range(2 * _TRIED):
        with box.edited():
            redraw(box, [(group, box.choose(group.size, 2))], _SCALES[attempt % 2])
            if difference(before, box.run()) > box.tolerance:
                return True
    return False


def _is_needed(box: Sandbox, group: UnitGroup, slot: Slot) -> bool:
    """Return whether it depends on the numbers of units how the output changes as their ``slot`` becomes zero.

    The other slots stay in place, since what the slot reads may act only together with them, like a query with its key.
    """
    for attempt in range(_TRIED):
        units = box.choose(group.size, 1 + attempt)
        runs = []
        for redrawn in (False, True):
            with box.edited():
                redraw(box, [(group, units)] if redrawn else [], _SCALES[attempt % 2])
                runs.append(box.run())
                box.fill([slot], units, 0.0)
                runs.append(box.run())
        quads = zip(*(map(as_real, run) for run in runs), strict=True)
        moved = [one + ((d - c) - (b - a)) for one, (a, b, c, d) in zip(map(as_real, runs[0]), quads, strict=True)]
        if difference(runs[0], moved) > box.tolerance:
            return True
    return False
