"""From labels to groups: which units are good, which belong together, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.slot import Slot, SlotKind
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.frames import TapCandidate
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY
from lightning_plasticity.units.tracing.shadow import compact
from lightning_plasticity.units.tracing.sources import Source
from lightning_plasticity.units.tracing.tape import Role


@dataclass(eq=False)
class Entry:
    """One tensor in one role: which unit each of its entries belongs to.

    Args:
        source: The tensor.
        role: Whether its entries write, read, or are carried.
        kind: The kind of slot.
        owners: Representatives of units, compact, in the shape of the tensor; 0 or less where there is none.
        time: When it was first used.
    """

    source: Source
    role: Role | None
    kind: SlotKind
    owners: Tensor
    time: int


@dataclass(eq=False)
class Verdict:
    """What a pass has found.

    Args:
        run: The pass, settled.
        through_norms: Whether coupled units count.
    """

    run: Execution
    through_norms: bool
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        labels = self.run.labels
        n = labels.count
        ids = torch.arange(n)
        self.root = labels.find(ids)
        self.reason = torch.zeros(n, dtype=torch.long)  # per representative: why it is no unit
        real = ~labels.mixture[:n] & ~labels.soft[:n]
        guilty = ids[real & (labels.reason[:n] != 0)]
        self.reason[self.root[guilty]] = labels.reason[guilty]
        self.coupled = torch.zeros(n, dtype=torch.bool)
        self.coupled[self.root[ids[real & labels.coupled[:n]]]] = True
        self.summed = self._mask(self.root[ids[labels.summed[:n]]])
        if not self.through_norms:
            self.decline(self.coupled & (self.reason == 0), "a normalisation layer lets its units influence each other")
        self._collect()
        self._check_weights()
        self._check_ends()

    def decline(self, which: Tensor, why: str) -> None:
        """Declare that the representatives ``which`` (a mask) are no units."""
        which = which & (self.reason == 0)
        which[NOBODY] = False
        if which.any():
            self.reason[which] = self.run.labels._code(why)

    def _owners(self, labels: Tensor) -> Tensor:
        nobody = labels.clamp(max=NOBODY)  # or not read at all
        return compact(torch.where(labels > FOREIGN, self.root[labels.clamp(min=0)], nobody))

    def _collect(self) -> None:
        for use in self.run.uses.values():
            alive = use.labels if use.role == "out" else self.run.labels.alive(use.labels)
            self.entries.append(Entry(use.source, use.role, "weight", self._owners(alive), use.time))
        for source in self.run.sources.all:
            if source.elementwise and source.soft is not None:
                ids = self.run.sources.entries(source)
                ids = torch.where(self.run.labels.reason[ids] == 0, ids, NOBODY)
                kind = next(iter(source.kinds)) if len(source.kinds) == 1 else "carried"
                self.entries.append(Entry(source, None, kind, self._owners(ids), self.run.clock))

    def _mask(self, owners: Tensor) -> Tensor:
        mask = torch.zeros_like(self.coupled)
        mask[owners[owners > 0]] = True
        return mask

    def _check_weights(self) -> None:
        """Decline what cannot be replaced because of how its weights are used."""
        for entry in self.entries:
            if entry.role is None:
                if entry.source.fault:
                    entry.owners = torch.zeros_like(entry.owners)
            else:
                if problem := entry.source.problem:
                    self.decline(self._mask(entry.owners), f"{entry.source.path} {problem}")
                self._check_whole(entry)
        for source, roles in self._both_roles():
            self._check_recurrence(source, roles)
            self._check_own_column(source, roles)

    def _check_whole(self, entry: Entry) -> None:
        if entry.role == "in":
            owners = entry.owners.reshape(-1)
            if entry.source.rows > 1 and owners.numel() == 1 and int(owners) > 0:
                self.decline(self._mask(entry.owners), "one unit spans its whole layer")

    def _both_roles(self) -> Iterator[tuple[Source, dict[str, Entry]]]:
        """Return the weights whose rows and columns are used, with the entries of both."""
        by_source: dict[Source, dict[str, Entry]] = {}
        for entry in self.entries:
            if entry.role is not None:
                by_source.setdefault(entry.source, {})[entry.role] = entry
        yield from ((source, roles) for source, roles in by_source.items() if len(roles) == 2)

    def _check_recurrence(self, source: Source, roles: dict[str, Entry]) -> None:
        if source.calls > self.run.runs:
            both = self._mask(roles["in"].owners) & self._mask(roles["out"].owners)
            self.decline(both, f"{source.path} feeds its own units and is used several times (recurrent)")

    def _check_own_column(self, source: Source, roles: dict[str, Entry]) -> None:
        """Decline units whose whole row is their own column, so that it is set to zero with the column."""
        written, read = roles["in"].owners, roles["out"].owners
        if (self._mask(written) & self._mask(read)).any():
            written, read = written.expand(source.tensor.shape), read.expand(source.tensor.shape)
            foreign = self._mask(written[written != read])
            self.decline(self._mask(written) & ~foreign, f"{source.path} reads what it writes and nothing else")

    def _check_ends(self) -> None:
        """Decline units that nobody reads; a weight whose own units nobody reads does not count as a reader."""
        written = self._all_owners("in")
        while True:
            read = self._all_owners("out")
            unread = written & ~read & (self.reason == 0)
            idle = {s for s, roles in self._both_roles() if unread[roles["in"].owners.clamp(min=0)].all()}
            if not idle:
                break
            self.entries = [e for e in self.entries if e.role != "out" or e.source not in idle]
        self.decline(written & ~read, "no layer reads it")
        self.good = written & read & (self.reason == 0)

    def _all_owners(self, role: Role) -> Tensor:
        mask = torch.zeros_like(self.coupled)
        for entry in self.entries:
            if entry.role == role:
                mask |= self._mask(entry.owners)
        return mask

    def guilty(self) -> Tensor:
        """Return which labels to switch off, so that those that suffer from them get another run; none if none does."""
        labels = self.run.labels
        n = labels.count
        born = torch.zeros(n, dtype=torch.bool)
        for use in self.run.uses.values():
            if use.role == "in":
                born[use.labels[use.labels > 0]] = True
        own = born & (labels.reason[:n] != 0)
        faulty_class = self._mask(self.root[own.nonzero()[:, 0]])
        victims = born & ~own & faulty_class[self.root]
        off = torch.zeros_like(labels.off)
        if victims.any():
            off[:n] = own
        return off & ~labels.off

    # -- groups -----------------------------------------------------------------------------------------------------

    def groups(self) -> list[UnitGroup]:
        """Return the groups, in the order in which the model first writes their units."""
        number = torch.full_like(self.root, -1)
        number[self.good] = torch.arange(int(self.good.sum()))
        total = int(self.good.sum())
        if not total:
            return []
        owned = [torch.where(e.owners > 0, number[e.owners.clamp(min=0)], -1) for e in self.entries]
        which = _alike(owned, total)
        inside: dict[int, list[int]] = {}
        for i, o in enumerate(owned):
            for w in which[o[o >= 0]].unique().tolist():  # type: ignore[no-untyped-call]
                inside.setdefault(w, []).append(i)
        found = [self._group((which == w).nonzero()[:, 0], owned, inside[w]) for w in sorted(inside)]
        return [group for _, group in sorted(found, key=lambda pair: pair[0])]

    def _group(self, units: Tensor, owned: list[Tensor], inside: list[int]) -> tuple[tuple[int, int], UnitGroup]:
        """Return one group and its place in the order of computation.

        Args:
            units: Numbers of good units.
            owned: The unit of every entry of each tensor.
            inside: The tensors of which they own entries.

        Returns:
            The place (time and row), and the group.
        """
        first = min((i for i in inside if self.entries[i].role == "in"), key=lambda i: self.entries[i].time)
        present = owned[first].reshape(-1)
        present = present[torch.isin(present, units)]
        order = list(dict.fromkeys(present.tolist()))
        position = torch.full((int(self.good.sum()),), -1)
        position[torch.tensor(order)] = torch.arange(len(order))
        slots: dict[str, list[tuple[int, Slot]]] = {"in": [], "bias": [], "norm": [], "out": []}
        for i in inside:
            e = self.entries[i]
            room = e.role or ("bias" if e.kind == "bias" else "norm")
            units_of = torch.where(owned[i] >= 0, position[owned[i].clamp(min=0)], -1)
            slots[room].append((e.time, _slot(e, units_of, len(order))))
        ins, outs = (sorted(slots[room], key=lambda pair: pair[0]) for room in ("in", "out"))
        tap, reader = self._tap(position, len(order))
        outs.sort(key=lambda pair: pair[1].module is not reader)
        representative = self.good.nonzero()[units[0], 0]
        group = UnitGroup(
            self.entries[first].source.place,
            len(order),
            tuple(s for _, s in (*ins, *slots["bias"])),
            tuple(s for _, s in slots["norm"]),
            tuple(s for _, s in outs),
            tap,
            coupled=bool(self.coupled[representative]),
            residual=bool(self.summed[representative]) and max(t for t, _ in ins) > min(t for t, _ in slots["out"]),
        )
        return (ins[0][0], int((owned[first].reshape(-1) == order[0]).nonzero()[0])), group

    @cached_property
    def _candidates(self) -> list[tuple[TapCandidate, Tensor]]:
        """The places where units can be observed, inputs first, with the number of the good unit at every feature."""
        number = torch.full_like(self.root, -1)
        number[self.good] = torch.arange(int(self.good.sum()))
        ordered = sorted(self.run.taps, key=lambda c: c.where)
        return [(c, number[self.root[c.labels]]) for c in ordered]

    def _tap(self, position: Tensor, size: int) -> tuple[Tap | None, object]:
        first = int((position == 0).nonzero()[0])
        for c, numbers in self._candidates:
            if (numbers == first).any():
                table = _table(torch.where(numbers >= 0, position[numbers.clamp(min=0)], -1), size)
                if table is not None:
                    return Tap(c.module, c.path, c.where, c.key, c.dim, table), c.module
        return None, None


def _alike(owned: list[Tensor], total: int) -> Tensor:
    """Return which units own equally many entries of every tensor.

    Args:
        owned: The unit of every entry of each tensor, -1 for none.
        total: The number of units.

    Returns:
        The number of each unit's group, ``[total]``.
    """
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(total, dtype=torch.long)
    for o in owned:  # sums of random keys, one per tensor: equal for units that own the same, and for no others
        units = o[o >= 0]
        key = torch.randint(-(2**62), 2**62, (1,), generator=generator)
        sums.index_add_(0, units, key.expand(len(units)))
    which: Tensor = sums.unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return which


def _table(units: Tensor, size: int) -> Tensor | None:
    """Return the positions of every unit in ``units``, ``[U, K]``; None if not all units have equally many."""
    counts = torch.bincount(units[units >= 0], minlength=size)
    if len(counts) != size or int(counts.min()) == 0 or bool((counts != counts[0]).any()):
        return None
    where = (units >= 0).nonzero()[:, 0]
    order = torch.sort(units[where], stable=True).indices
    return where[order].reshape(size, -1)


def _slot(entry: Entry, units: Tensor, size: int) -> Slot:
    """Return the slot of a group in one tensor, given the unit of every entry, compact."""
    source = entry.source
    dims = [d for d in range(units.ndim) if units.shape[d] > 1]
    if not dims:  # one unit owns everything
        single = [d for d in range(units.ndim) if source.tensor.shape[d] == 1] or [0]
        dim = single[-1] if entry.role == "out" else single[0]
        index: tuple[Tensor, ...] = (torch.arange(source.tensor.shape[dim])[None],)
        return Slot(source.module, source.name, source.path, (dim,), index, kind=entry.kind)
    flat = units.reshape(-1)
    table = _table(flat, size)
    assert table is not None  # noqa: S101 - units of a group own equally many entries
    shape = [units.shape[d] for d in dims]
    index = (table,) if len(shape) == 1 else torch.unravel_index(table, shape)
    return Slot(source.module, source.name, source.path, tuple(dims), tuple(index), kind=entry.kind)
