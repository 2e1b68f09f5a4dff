"""Prove the laws for many units of all groups at once, in rounds in each of which other units are changed.

In each of five rounds, two in five of the units are changed together, every unit in two rounds: the others go on
carrying the signal. Any two units of a group (of up to ten) differ in both directions, so of two that were exchanged in
a slot, each is changed in a round in which the other one is not; it is enough that this one acts. Every round has other
weights, since a unit that is dead hides a mistake. If a round fails, the groups are halved until the guilty ones are
found; these are tried alone from then on. Groups of fewer than four units may be all that connects input and output;
each of their units has a round of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.exclusivity import SILENCES, exclusive, self_contained
from lightning_plasticity.units.proof.independence import independent, unread
from lightning_plasticity.units.proof.laws import Chosen, blamed
from lightning_plasticity.units.proof.report import UnitProof
from lightning_plasticity.units.proof.sandbox import Sandbox

_ROUNDS, _CHANGED = 5, 2
_SCALES = (1.0, 10.0)
_CONNECTED = 4


class Rounds:
    """Proves independence, exclusivity and the taps of some groups.

    Args:
        box: The model; its weights are redrawn and stay so.
        groups: The groups, all of them coupled or none.
        proofs: What was proven of every group, by name; this is where problems are noted.
        samples: Most units per group that are tried.
    """

    def __init__(self, box: Sandbox, groups: Sequence[UnitGroup], proofs: dict[str, UnitProof], samples: int) -> None:
        self.box, self.groups, self.proofs, self.samples = box, groups, proofs, samples
        self.silenced = dict.fromkeys((group.name for group in groups), 0)  # the way in which they carry nothing
        self.seen: set[str] = set()  # groups whose units moved at their taps

    def prove(self, modes: Sequence[bool]) -> None:
        """Prove independence in every mode (``training`` or not), and exclusivity in evaluation mode."""
        for training in modes:
            self.box.training = training
            for number, chosen in enumerate(self._rounds()):
                if number or training:  # a first round with the weights as they are
                    self.box.redraw_weights()
                for together in filter(None, self._apart(chosen, "independent")):
                    self._prove_independent(together, _SCALES[number % 2])
        self.box.training = False
        for chosen in self._rounds():
            self.box.redraw_weights()
            for together in filter(None, self._apart(chosen, "exclusive")):
                self._prove_exclusive(together)
        self._judge_taps()

    def _judge_taps(self) -> None:
        """Note of which groups no unit ever moved at the tap; where units reach others, nothing follows from that."""
        for group in self.groups:
            if group.tap is None or not self.proofs[group.name].independent:
                self.proofs[group.name].tapped = None
            elif group.name not in self.seen:
                self.proofs[group.name].refute("tapped", "redrawn, the units do not change the tapped activation")

    def _rounds(self) -> Iterator[Chosen]:
        """Yield the units to change in each round: some of every large group; each unit of a small one, alone."""
        large = [group for group in self.groups if group.size >= _CONNECTED]
        units = {group.name: self.box.choose(group.size, self.samples) for group in large}
        codes = {name: self._codes(len(chosen)) for name, chosen in units.items()}
        for number in range(_ROUNDS if large else 0):
            chosen = [(group, units[group.name][codes[group.name][:, number]]) for group in large]
            yield [(group, some) for group, some in chosen if len(some)]
        for group in self.groups:
            if group.size < _CONNECTED:
                yield from ([(group, unit[None])] for unit in self.box.choose(group.size, group.size))

    def _codes(self, count: int) -> Tensor:
        """Return the rounds in which each unit is changed, ``[count, rounds]``; equal codes are as rare as can be."""
        pairs = [[i in code for i in range(_ROUNDS)] for code in combinations(range(_ROUNDS), _CHANGED)]
        codes = torch.tensor(pairs, device="cpu")
        most = len(codes)
        return torch.cat([codes[self.box.choose(most, most)] for _ in range(0, count, most)])[:count]

    def _apart(self, chosen: Chosen, law: str) -> Iterator[Chosen]:
        """Yield what to check together: all groups without a fault, then each faulty one alone, unless of this law."""
        faulty = [(group, units) for group, units in chosen if self.proofs[group.name].problems]
        names = {group.name for group, _ in faulty}
        yield [(group, units) for group, units in chosen if group.name not in names]
        yield from ([one] for one in faulty if getattr(self.proofs[one[0].name], law) is True)

    def _prove_independent(self, chosen: Chosen, scale: float) -> None:
        problems, moved = unread(self.box, chosen, scale)
        if problems:
            guilty = blamed(independent, self.box, chosen)
            for name, problem in guilty.items():
                self.proofs[name].refute("independent", problem)
            chosen = [(group, units) for group, units in chosen if group.name not in guilty]
            moved = unread(self.box, chosen)[1] if chosen else {}
        for group, units in chosen:
            if group.name in moved:
                self._note_tap(group, units, moved[group.name])

    def _note_tap(self, group: UnitGroup, units: Tensor, moved: Tensor) -> None:
        own = torch.zeros_like(moved)
        own[units] = True
        self.seen |= {group.name} if (moved & own).any() else set()
        others = torch.where(moved & ~own)[0].tolist()
        if others:
            problem = f"units {units.tolist()}: redrawn, they change the tapped activation of {others}"
            self.proofs[group.name].refute("tapped", problem)

    def _prove_exclusive(self, chosen: Chosen) -> None:
        """Silence the units, each group in the first way in which it carries nothing; else by what the tap shows."""
        for number, how in enumerate(SILENCES):
            now = [(group, units) for group, units in chosen if self.silenced[group.name] == number]
            loud = blamed(partial(exclusive, how=how), self.box, now)
            for group, units in now:
                if group.name in loud and number + 1 < len(SILENCES):
                    self.silenced[group.name] += 1
                elif group.name in loud and not (verdict := self_contained(self.box, group, units)):
                    self.proofs[group.name].refute("exclusive", loud[group.name], verdict)
