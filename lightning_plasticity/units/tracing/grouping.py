"""From good units to groups: which belong together, where their entries lie, and where they can be observed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.slot import Slot

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.verdict import Entry, Verdict

_MOST_REMEMBERED = 2**16
"""Larger tables, of the columns of grouped convolutions, are met once; to remember them would double the memory."""


@dataclass(eq=False)
class _Group:
    """A group in the making.

    Args:
        start: The number of its first unit; the others follow.
        size: How many units it has.
        slots: Its slots by what they do (``"in"``, ``"bias"``, ``"norm"``, ``"out"``), each with what it was made from.
        tap: Where it is observed.
    """

    start: int
    size: int
    slots: dict[str, list[tuple[Entry, Slot]]] = field(default_factory=lambda: defaultdict(list))
    tap: Tap | None = None


def groups_of(verdict: Verdict) -> list[UnitGroup]:
    """Return the groups of good units, in the order in which the model first writes them.

    Args:
        verdict: Which units are good, and what they own.

    Returns:
        One group per set of units that own equally many entries of the same tensors.
    """
    good = verdict.good.nonzero()[:, 0]
    if not len(good):
        return []
    number = torch.full(verdict.good.shape, -1)
    number[good] = torch.arange(len(good))
    lengths = [entry.owners.numel() for entry in verdict.entries]
    owners = torch.cat([entry.owners.reshape(-1) for entry in verdict.entries])
    order, sizes = _in_groups(verdict.entries, number[owners], lengths, len(good))
    number[good[order]] = torch.arange(len(good))  # from now on the units of a group are neighbours
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    groups = [_Group(start, size) for start, size in zip(starts, sizes, strict=False)]
    by_group = _ByGroup(torch.arange(len(groups)).repeat_interleave(torch.tensor(sizes)))
    for entry, owned in zip(verdict.entries, torch.split_with_sizes(number[owners], lengths), strict=True):
        for g, _, where in by_group.of(owned):
            does = entry.role or ("bias" if entry.kind == "bias" else "norm")
            groups[g].slots[does].append((entry, _slot(entry, where.reshape(sizes[g], -1))))
    for tap in sorted(verdict.run.taps, key=lambda candidate: candidate.where):  # inputs first
        for g, units, where in by_group.of(number[verdict.unit[tap.labels]]):
            group = groups[g]
            if group.tap is None and _is_even(units, group):
                group.tap = Tap(tap.module, tap.path, tap.where, tap.key, tap.dim, where.reshape(group.size, -1))
    return [_finished(group, verdict, int(good[order[group.start]])) for group in groups]


def _finished(group: _Group, verdict: Verdict, unit: int) -> UnitGroup:
    """Return the group.

    Args:
        group: All that was found of it.
        verdict: What is known of its units.
        unit: One of them.
    """
    written, read = (sorted(group.slots[role], key=lambda pair: pair[0].time) for role in ("in", "out"))
    again = written[-1][0].time > read[0][0].time
    if group.tap is not None:
        observed = group.tap.module
        read.sort(key=lambda pair: pair[1].module is not observed)
    return UnitGroup(
        written[0][0].source.place,
        group.size,
        tuple(slot for _, slot in (*written, *group.slots["bias"])),
        tuple(slot for _, slot in group.slots["norm"]),
        tuple(slot for _, slot in read),
        group.tap,
        coupled=bool(verdict.coupled[unit]),
        residual=bool(verdict.summed[unit]) and again,
    )


def _in_groups(entries: Sequence[Entry], owned: Tensor, lengths: Sequence[int], total: int) -> tuple[Tensor, list[int]]:
    """Return all units, those of a group side by side, and the sizes of the groups.

    The groups, and the units of each, are in the order in which rows of weights first write them.

    Args:
        entries: The tensors in their roles.
        owned: The unit of every entry of all of them, flattened, -1 for none.
        lengths: How many entries each of them has.
        total: The number of units.
    """
    which = _alike(owned, lengths, total)
    each = torch.split_with_sizes(owned, lengths)
    writers = sorted((e.time, i) for i, e in enumerate(entries) if e.role == "in")
    rows = torch.cat([each[i] for _, i in writers])
    rows = rows[rows >= 0]
    never = len(rows)
    written = torch.full((total,), never).scatter_reduce(0, rows, torch.arange(never), "amin")  # when each is at first
    start = torch.full((total,), never).scatter_reduce(0, which, written, "amin")  # when each group is
    units = (start[which] * (never + 1) + written).argsort()
    sizes = which[units].unique_consecutive(return_counts=True)[1]  # type: ignore[no-untyped-call]
    return units, sizes.tolist()


def _alike(owned: Tensor, lengths: Sequence[int], total: int) -> Tensor:
    """Return the number of each unit's group, ``[total]``: units that own equally many entries of every tensor."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**62), 2**62, (len(lengths),), generator=generator)
    keys = keys.repeat_interleave(torch.tensor(lengths))
    sums = torch.zeros(1 + total, dtype=torch.long)  # sums of random keys: equal for units that own the same only
    sums.index_add_(0, owned + 1, keys)
    which: Tensor = sums[1:].unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return which


@dataclass(eq=False)
class _ByGroup:
    """Where each group stands in a tensor of units; units stand alike in a weight, in its norms and in its readers.

    Args:
        group_of: The group of every unit.
    """

    group_of: Tensor
    known: dict[bytes, list[tuple[int, Tensor, Tensor]]] = field(default_factory=dict)

    def of(self, units: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """Return every group in ``units``, the numbers of its units in rising order, and the positions of these.

        Args:
            units: The unit at every position, -1 for none, ``[N]``.
        """
        if len(units) > _MOST_REMEMBERED:
            return self._split(units)
        key = units.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self._split(units)
        return self.known[key]

    def _split(self, units: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        where = (units >= 0).nonzero()[:, 0]
        present, order = units[where].sort(stable=True)
        groups, counts = self.group_of[present].unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        parts = counts.tolist()
        each = torch.split_with_sizes(present, parts), torch.split_with_sizes(where[order], parts)
        return list(zip(groups.tolist(), *each, strict=True))


def _is_even(units: Tensor, group: _Group) -> bool:
    """Return whether all units of a group stand equally often in ``units``, which is in rising order."""
    times, rest = divmod(len(units), group.size)
    return rest == 0 and torch.equal(units.reshape(group.size, times), _numbers(group)[:, None].expand(-1, times))


def _numbers(group: _Group) -> Tensor:
    return torch.arange(group.start, group.start + group.size)


def _slot(entry: Entry, where: Tensor) -> Slot:
    """Return the slot of a group in one tensor.

    Args:
        entry: The tensor.
        where: Where each unit stands among the owners of its entries, which are compact, flattened, ``[U, K]``.
    """
    source, shape = entry.source, entry.owners.shape
    dims = tuple(d for d, n in enumerate(shape) if n > 1)
    if not dims:  # one unit owns everything
        single = [d for d in range(len(shape)) if source.tensor.shape[d] == 1] or [0]
        dims = (single[-1] if entry.role == "out" else single[0],)
        where = torch.arange(source.tensor.shape[dims[0]])[None]
    index = (where,) if len(dims) == 1 else tuple(torch.unravel_index(where, [shape[d] for d in dims]))
    return Slot(source.module, source.name, source.path, dims, index, kind=entry.kind)
