"""The laws that hold of units, each checked on a model in a sandbox.

A law takes the sandbox and the chosen units of some groups and returns what it found wrong, by the name of the group.
A law that holds for many groups at once holds for each of them, so :func:`blamed` looks at fewer groups only where it
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.proof.comparison import difference, is_one_number, moved_units
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.statistics import FrozenStatistics

Chosen = Sequence[tuple[UnitGroup, Tensor]]
Problems = dict[str, str]
Law = Callable[[Sandbox, Chosen], Problems]

_PAIRS = 6

SILENCES = ((0.0, 0.0), (-1e3, 0.0), (0.0, 1e-18), (0.0, -1e3))
"""What to set biases and weights to, so that units carry nothing: zero; a bias that makes a sigmoid, a softplus or an
exponential zero; a weight whose norm can be divided by; a weight of which an exponential or a softplus is zero."""


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


def independent(box: Sandbox, chosen: Chosen) -> Problems:
    """Return the groups whose redrawn units reach the output though their outgoing slots are zero."""
    return unread(box, chosen)[0]


def unread(box: Sandbox, chosen: Chosen, scale: float = 1.0) -> tuple[Problems, dict[str, Tensor]]:
    """Redraw units that nothing reads: the output must stay, and the taps should show these units and no others.

    Args:
        box: The model.
        chosen: Groups and units.
        scale: The size of the new entries, relative to the old ones; 1 is tried if another gives no finite output.

    Returns:
        What breaks independence, by group; and by group which units moved at the tap, ``[U]``, unless something does.
    """
    frozen = statistics_of(chosen)
    with box.edited():
        cut(box, chosen)
        before, seen = _watched(box, chosen, *frozen)
        for size in dict.fromkeys((scale, 1.0)):
            with box.edited():
                redraw(box, chosen, size)
                cut(box, chosen)  # a redrawn row of one unit may hold a column of another
                after, now = _watched(box, chosen, *(f.replay() for f in frozen))
            change = difference(before, after)
            if change > box.tolerance:
                return about(chosen, f"redrawn, they change the output by {change:.1e} though nothing reads them"), {}
            if change <= box.tolerance:
                return {}, {name: moved_units(seen[name], now[name], box.tolerance) for name in seen if seen[name]}
    return about(chosen, "no redraw leaves the output finite"), {}


def exclusive(box: Sandbox, chosen: Chosen, how: tuple[float, float] = SILENCES[0]) -> Problems:
    """Return the groups in which the outgoing slots of units that carry nothing do carry something.

    Statistics are held constant, because a reader with weight norm scales all columns if one of them is set to zero.

    Args:
        box: The model.
        chosen: Groups and units.
        how: What their biases and weights are set to, one of :data:`SILENCES`.

    Returns:
        What is wrong, by group.
    """
    frozen = FrozenStatistics()
    with box.edited():
        silence(box, chosen, how)
        before = box.run(frozen)
        cut(box, chosen)
        change = difference(before, box.run(frozen.replay()))
    if change <= box.tolerance and not any(output.isnan().any() for output in before):
        return {}
    return about(chosen, f"though they are silent, their outgoing slots add {change:.1e}")


def self_contained(box: Sandbox, group: UnitGroup, units: Tensor) -> bool | None:
    """Return whether units that carry nothing are constants where they are read, such as the cosine of zero.

    Two things show it. As every other weight and every input is moved, what the tap shows of the silent units stays the
    same, or one number for all units and samples (the value that an activation function with own parameters has at
    zero). And two silent units may exchange their outgoing slots, also those that the tap does not show, since both
    are read as the same constant.

    Args:
        box: The model.
        group: The group.
        units: Units of it.

    Returns:
        Whether nothing but the units is read; None without a tap, and for a single unit with several outgoing slots.
    """
    if group.tap is None:
        return None
    frozen, chosen = FrozenStatistics(), [(group, units)]
    with box.edited():
        silence(box, chosen)
        (before,) = _activations(box, chosen, frozen).values()
        cut(box, chosen)
        (unread,) = _activations(box, chosen, frozen.replay()).values()
    if not before:
        return None
    if not group.residual and moved_units(before, unread, box.tolerance).any():
        return False  # what is said to read the units writes some of them
    with box.shaken(), box.edited():
        silence(box, chosen)
        (after,) = _activations(box, chosen, frozen.replay()).values()
    if len(group.outgoing) == 1 and all(not seen[:, units].any() for seen in before):
        return False  # the only reader sees zeros, so it is not a constant of the units that it adds
    constant = not moved_units(before, after, box.tolerance)[units].any()
    if not constant and not all(is_one_number(seen[:, units], box.tolerance) for seen in after):
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
        pair = torch.tensor([first, first ^ 1 if first ^ 1 < group.size else first - 1])  # likely of the same head
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


def disjoint(box: Sandbox, group: UnitGroup) -> list[str]:
    """Return the slots in which units share entries, or in which one that writes a unit is also said to read it.

    A residual stream may do so, but not with all entries of a slot: ``x + linear(x)`` has one such weight per unit.

    Args:
        box: The model; it does not run.
        group: The group.

    Returns:
        What is wrong, one sentence per slot.
    """
    problems = [f"{slot.path}: an entry belongs to two units" for slot in group.slots if _is_shared(slot)]
    one = box.choose(group.size, 1)
    with box.edited():
        box.fill(group.incoming, one, 1.0)
        box.fill(group.outgoing, one, 0.0)
        for slot in group.incoming:
            read = slot.gather(one) == 0
            if read.all() if group.residual else read.any():
                problems.append(f"{slot.path}: its entries are read where they are written (tied weights)")
    return problems


def _is_shared(slot: Slot) -> bool:
    shape = slot.shape or tuple(slot.tensor.shape)
    places = torch.zeros_like(slot.index[0])
    for dim, table in zip(slot.dims, slot.index, strict=True):
        places = places * shape[dim] + table % shape[dim]
    return bool(places.unique().numel() < places.numel())  # type: ignore[no-untyped-call]


def cut(box: Sandbox, chosen: Chosen) -> None:
    """Set the outgoing slots of the units to zero."""
    for group, units in chosen:
        box.fill(group.outgoing, units, 0.0)


def silence(box: Sandbox, chosen: Chosen, how: tuple[float, float] = SILENCES[0]) -> None:
    """Let the units carry nothing, or what their activation function makes of nothing."""
    for group, units in chosen:
        box.silence(group.incoming + group.norms, units, *how)


def redraw(box: Sandbox, chosen: Chosen, scale: float) -> None:
    """Draw the incoming and norm entries of the units anew."""
    for group, units in chosen:
        box.redraw(group.incoming + group.norms, units, scale)


def statistics_of(chosen: Chosen) -> list[FrozenStatistics]:
    """Return what holds the statistics of norms constant, if any of the units is coupled by them."""
    return [FrozenStatistics()] if any(group.coupled for group, _ in chosen) else []


def about(chosen: Chosen, problem: str) -> Problems:
    """Return the same problem for every group."""
    return {group.name: f"units {units.tolist()}: {problem}" for group, units in chosen}


def _activations(box: Sandbox, chosen: Chosen, *modes: FrozenStatistics) -> dict[str, list[Tensor]]:
    """Return what the tap of every group sees in one run, per call the features of every unit, ``[N, U, K]``."""
    seen: dict[str, list[Tensor]] = {group.name: [] for group, _ in chosen}

    def collect(name: str, tap: Tap, activation: Tensor) -> None:
        seen[name].append(tap.samples(activation.detach())[:, tap.index.to(activation.device)].clone())

    _watch(box, chosen, collect, *modes)
    return seen


def _watched(box: Sandbox, chosen: Chosen, *modes: FrozenStatistics) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return the output, and in place of all samples that each tap sees one random combination of them, ``[1, U, K]``.

    Every sample has its own random weight, so what changes for any sample changes the combination.
    """
    seen: dict[str, list[Tensor]] = {group.name: [] for group, _ in chosen}

    def collect(name: str, tap: Tap, activation: Tensor) -> None:
        samples = tap.samples(activation.detach())
        generator = torch.Generator().manual_seed(len(seen[name]))
        weights = torch.randn(len(samples), generator=generator, dtype=torch.float64).to(samples)
        seen[name].append((weights @ samples)[None, tap.index.to(activation.device)])

    return _watch(box, chosen, collect, *modes), seen


def _watch(
    box: Sandbox, chosen: Chosen, collect: Callable[[str, Tap, Tensor], None], *modes: FrozenStatistics
) -> list[Tensor]:
    with ExitStack() as stack:
        for group, _ in chosen:
            if group.tap is not None:
                stack.callback(group.tap.watch(partial(collect, group.name, group.tap)).remove)
        return box.run(*modes)
