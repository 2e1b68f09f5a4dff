"""Why labels are no units: each has one reason, and hands it on to the labels that it was made from."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.growing import Growing, blank
from lightning_plasticity.units.tracing.why import GIVE_WAY, OUTPUT


class Faults(Growing):
    """What is wrong with labels.

    A reason is the number of a text in ``reasons``; ``opaque`` are those that name an operation without a rule.
    ``edges`` are pairs of tensors, labels and the labels that they were made from, in the order in which this was done.
    Of every label there is known:

    * ``if_used``: of a mixture, the reason for which its members are spoiled if it is used; it lasts as long as the id;
    * ``reason``: the reason why the label is spoiled, 0 if it is not;
    * ``ends``: whether the label is in the output of the model;
    * ``coupled``: whether a norm lets the label be influenced by its neighbours.

    Args:
        room: How many labels there is memory for.
        first: The first id that can have faults.
    """

    def __init__(self, room: int, first: int) -> None:
        self._first = first
        self.reasons = [""]
        self.opaque: set[int] = set()
        self.if_used = blank(room, torch.long)
        self.forget_faults(room)

    def forget_faults(self, room: int) -> None:
        """Let no label have a fault; there is memory for ``room`` of them."""
        self.reason = torch.zeros(room, dtype=torch.long)
        self.ends, self.coupled = blank(room), blank(room)
        self.edges: list[tuple[Tensor, Tensor]] = []

    def code(self, why: str) -> int:
        """Return the number of a reason."""
        if why not in self.reasons:
            self.reasons.append(why)
        return self.reasons.index(why)

    def spoil_members(self, mixtures: Tensor) -> None:
        """Spoil all members of ``mixtures``, which were used, each mixture for its own reason."""
        mixtures = mixtures.reshape(-1)
        mixtures = mixtures[self.reason[mixtures] == 0]
        self.reason[mixtures] = self.if_used[mixtures]

    def spoil(self, ids: Tensor, why: str) -> None:
        """Declare that ``ids`` are no units because of ``why``; the first reason stays."""
        ids = ids.reshape(-1)
        ids = ids[(ids >= self._first) & (self.reason[ids] == 0)]
        if len(ids):
            self.reason[ids] = self.code(why)

    def end(self, ids: Tensor) -> None:
        """Declare that ``ids`` are in the output of the model; what made a mixture without a rule is said instead."""
        ids = ids.reshape(-1)
        self.writable("ends")[ids] = True
        if self.opaque:
            self.spoil_members(ids[self.is_opaque(ids)])
        self.spoil(ids, OUTPUT)

    def is_opaque(self, ids: Tensor) -> Tensor:
        """Return which of ``ids`` are mixtures that an operation without a rule made."""
        return torch.isin(self.if_used[ids], torch.tensor(sorted(self.opaque)))

    def couple(self, ids: Tensor) -> None:
        """Declare that a normalisation lets ``ids`` influence each other."""
        self.writable("coupled")[ids.reshape(-1)] = True

    def settle(self) -> None:
        """Hand every fault of a label on to the labels it was made from."""
        ends, coupled = self.writable("ends"), self.writable("coupled")
        for child, parent in reversed(self.edges):
            ends[parent[ends[child]]] = True
            coupled[parent[coupled[child]]] = True
            guilty = (self.reason[child] != 0) & (self.reason[parent] == 0)
            self.reason[parent[guilty]] = self.reason[child[guilty]]
        gives_way = torch.tensor([why in GIVE_WAY for why in self.reasons])
        self.reason[ends & gives_way[self.reason]] = self.code(OUTPUT)
        self.reason[: self._first], coupled[: self._first] = 0, False
