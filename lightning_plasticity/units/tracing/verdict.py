"""From labels to units: which are good, what they own, and why the others are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY
from lightning_plasticity.units.tracing.shadow import compact
from lightning_plasticity.units.tracing.source import CHANGED, FROZEN, FROZEN_READER, UPDATED, Source
from lightning_plasticity.units.tracing.tape import Role


@dataclass(eq=False)
class Entry:
    """One tensor in one role: which unit each of its entries belongs to.

    Args:
        source: The tensor.
        role: Whether its entries write, read, or are carried.
        kind: The kind of slot.
        owners: Units, compact, in the shape of the tensor; 0 where there is none.
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
        root = labels.find()
        self.unit = ((root == ids).cumsum(0) - 1)[root]  # of every label; there are fewer units than labels
        units = int(self.unit.max()) + 1
        self.reason = torch.zeros(units, dtype=torch.long)  # why it is none
        real = ~labels.mixture[:n] & ~labels.soft[:n]
        guilty = ids[real & (labels.reason[:n] != 0)]
        self.reason[self.unit[guilty]] = labels.reason[guilty]
        self.coupled = torch.zeros(units, dtype=torch.bool)
        joined = labels.soft[:n] & (labels.reason[:n] == 0)  # such as queries that a norm acts on
        self.coupled[self.unit[(real | joined) & labels.coupled[:n]]] = True
        self.summed = self._mask(self.unit[labels.summed[:n]])
        if not self.through_norms:
            self.decline(self.coupled & (self.reason == 0), "a normalisation layer lets its units influence each other")
        self._collect()
        self._check_buffers()
        self._check_weights()
        self._check_ends()

    def decline(self, which: Tensor, why: str) -> None:
        """Declare that ``which`` (a mask) are no units."""
        which = which & (self.reason == 0)
        which[NOBODY] = False
        if which.any():
            self.reason[which] = self.run.labels.code(why)

    def _collect(self) -> None:
        labels, uses = self.run.labels, self.run.uses.values()
        weights = self._owners([use.labels if use.role == "out" else labels.alive(use.labels) for use in uses])
        self.entries += [
            Entry(use.source, use.role, "weight", owners, use.time) for use, owners in zip(uses, weights, strict=True)
        ]
        soft = [source for source in self.run.sources.all if source.elementwise and source.soft is not None]
        carried = self._owners([self.run.sources.entries(source) for source in soft], faultless=True)
        for source, owners in zip(soft, carried, strict=True):
            kind = next(iter(source.kinds)) if len(source.kinds) == 1 else "carried"
            self.entries.append(Entry(source, None, kind, owners, self.run.clock))

    def _owners(self, each: list[Tensor], *, faultless: bool = False) -> list[Tensor]:
        """Return the units that several tensors of labels belong to; those with a fault to nobody, if so wished."""
        if not each:
            return []
        flat = torch.cat([labels.reshape(-1) for labels in each])
        owned = flat > FOREIGN
        if faultless:
            owned &= self.run.labels.reason[flat] == 0
        units = torch.where(owned, self.unit[flat.clamp(min=0)], NOBODY)
        parts = torch.split_with_sizes(units, [labels.numel() for labels in each])
        return [compact(part.reshape(labels.shape)) for part, labels in zip(parts, each, strict=True)]

    def _mask(self, owners: Tensor) -> Tensor:
        mask = torch.zeros_like(self.coupled)
        mask[owners[owners > 0]] = True
        return mask

    def _check_buffers(self) -> None:
        """Decline units that own an entry of a buffer which the model updates, as a norm does its statistics."""
        for source, owned in self.run.updates.owners():
            self.decline(self._mask(self.unit[owned]), f"it meets the buffer {source.path!r}, {UPDATED}")

    def _check_weights(self) -> None:
        """Decline what cannot be replaced because of how its weights are used."""
        for entry in self.entries:
            if entry.role is None:
                if entry.source.fault == CHANGED:  # what the forward pass has made of the units outlives them
                    self.decline(self._mask(entry.owners), f"{entry.source.path} {CHANGED}")
                elif entry.source.fault:
                    entry.owners = torch.zeros_like(entry.owners)
                elif entry.source.orientations:
                    self.decline(self._mask(entry.owners), f"{entry.source.path} {entry.source.problem}")
            else:
                if problem := entry.source.problem:
                    of_reader = entry.role == "out" and problem == FROZEN
                    why = FROZEN_READER if of_reader else problem
                    self.decline(self._mask(entry.owners), f"{entry.source.path} {why}")
                self._check_whole(entry)
        for source, roles in self._both_roles():
            self._check_recurrence(source, roles)
            self._check_own_column(source, roles)

    def _check_whole(self, entry: Entry) -> None:
        if entry.role == "in":
            owners = entry.owners.reshape(-1)
            if entry.source.rows > 1 and owners.numel() == 1 and int(owners) > 0:
                self.decline(self._mask(entry.owners), "all of its rows are one unit")

    def _both_roles(self) -> Iterator[tuple[Source, dict[str, Entry]]]:
        """Return the weights whose rows and columns are used, with the entries of both."""
        by_source: dict[Source, dict[str, Entry]] = {}
        for entry in self.entries:
            if entry.role is not None:
                by_source.setdefault(entry.source, {})[entry.role] = entry
        yield from ((source, roles) for source, roles in by_source.items() if len(roles) == 2)

    def _check_recurrence(self, source: Source, roles: dict[str, Entry]) -> None:
        if source.is_repeated:
            both = self._mask(roles["in"].owners) & self._mask(roles["out"].owners)
            self.decline(both, f"{source.path} feeds its own units and is used several times (recurrent)")

    def _check_own_column(self, source: Source, roles: dict[str, Entry]) -> None:
        """Decline units whose whole row is their own column, so that it is set to zero with the column."""
        written, read = roles["in"].owners, roles["out"].owners
        if self._mask(written)[read].any():
            written, read = written.expand(source.tensor.shape), read.expand(source.tensor.shape)
            foreign = self._mask(written[written != read])
            self.decline(self._mask(written) & ~foreign, f"{source.path} reads what it writes and nothing else")

    def _check_ends(self) -> None:
        """Decline units that nobody reads; a weight whose own units nobody reads does not count as a reader."""
        written = self._all_owners("in")
        while True:
            read = self._all_owners("out")
            unread = written & ~read & (self.reason == 0)
            idle = {s for s, roles in self._both_roles() if unread[roles["in"].owners].all()}
            if not idle:
                break
            self.entries = [e for e in self.entries if e.role != "out" or e.source not in idle]
        self.decline(written & ~read, "no layer reads it")
        self.good = written & read & (self.reason == 0)

    def _all_owners(self, role: Role) -> Tensor:
        owners = [entry.owners.reshape(-1) for entry in self.entries if entry.role == role]
        return self._mask(torch.cat(owners) if owners else torch.empty(0, dtype=torch.long))

    def guilty(self) -> Tensor:
        """Return which labels to switch off, so that those that suffer from them get another run; none if none does."""
        labels = self.run.labels
        n = labels.count
        born = torch.zeros(n, dtype=torch.bool)
        for use in self.run.uses.values():
            if use.role == "in":
                born[use.labels[use.labels > 0]] = True
        own = born & (labels.reason[:n] != 0)
        faulty = self._mask(self.unit[own])
        victims = born & ~own & faulty[self.unit]
        off = torch.zeros(len(labels.off), dtype=torch.bool)
        if victims.any():
            off[:n] = own
        return off & ~labels.off
