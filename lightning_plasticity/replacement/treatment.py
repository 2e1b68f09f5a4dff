"""One group under treatment: how old its units are, what they are worth, and what its edits hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.edits import Replacement
from lightning_plasticity.replacement.memory import Memory, State, precise
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.observability import age_scalars, score_scalars


class Treatment:
    """Everything that the engine keeps of one group.

    Args:
        method: The method of the group.
        memory: The memory of all groups.
        position: Position of the group in it.

    Attributes:
        group: The group.
        ages: Ages of its units.
        held: What each edit found out before training.
    """

    def __init__(self, method: Method, memory: Memory, position: int) -> None:
        self.method, self._memory, self._position = method, memory, position
        self.group = memory.groups[position]
        self.ages = Ages(self.group.size)
        self.held = [edit.prepare(self.group) for edit in method.edits]

    @property
    def _part(self) -> State:
        return self._memory.parts[self._position]

    def advance(self, generator: torch.Generator) -> int:
        """Let an optimizer step pass and return how many units may be replaced now."""
        ages, method = self.ages, self.method
        ages.advance()
        return method.selection.due(ages, generator) if ages.step % method.every_n_steps == 0 else 0

    def score(self, generator: torch.Generator) -> Tensor:
        """Return the score of every unit, ``[U]``, float64, on the host."""
        device = self._memory.device
        age = self.ages.age.to(device, precise(device))
        return self.method.utility.score(self._part, self.group, age, generator).cpu().double()

    def edit(self, units: Tensor, score: Tensor, generator: torch.Generator) -> None:
        """Apply the edits to ``units``, ``[R]``."""
        for edit, held in zip(self.method.edits, self.held, strict=True):
            edit(Replacement(self.group, units, score, self._part, held, generator))

    def renew(self, units: Tensor) -> None:
        """Let the ages and the memory of ``units``, ``[R]``, start afresh."""
        self._memory.renew(self._position, units)
        self.ages.renew(units)

    def metrics(self, generator: torch.Generator) -> dict[str, float]:
        """Return numbers for people; see :meth:`~lightning_plasticity.replacement.UnitReplacer.metrics`."""
        known = age_scalars(self.group, self.ages, self.method.selection, self.method.every_n_steps)
        return known | score_scalars(self.group, self.score(generator))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the group as plain tensors and strings.

        Hyper-parameters of the method are not in it, so that they may change between runs; the names of its parts are.
        """
        method = self.method
        return {
            "parts": [type(part).__name__ for part in (method.utility, method.selection, *method.edits)],
            "ages": self.ages.state_dict(),
            "memory": self._memory.save_group(self._position),
            "held": [{k: v.clone() for k, v in each.items()} for each in self.held],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state returned by :meth:`state_dict`."""
        self.ages.load_state_dict(state["ages"])
        self._memory.load_group(self._position, state["memory"])
        self.held = [{k: v.clone() for k, v in held.items()} for held in state["held"]]
