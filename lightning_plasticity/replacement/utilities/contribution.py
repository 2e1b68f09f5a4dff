"""The utility of Continual Backprop: how much a unit contributes to what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.functional.utility import contribution
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples, check_decay_rate, corrected
from lightning_plasticity.units import UnitGroup


@dataclass(frozen=True)
class Contribution:
    r"""Mean absolute activation times mean absolute outgoing weight, averaged over time.

    :math:`u \leftarrow \eta u + (1 - \eta)\, E|h| \cdot \overline{|w_{out}|}`, with the activations before the
    optimizer step and the weights after it; the score is corrected for the age, :math:`u / (1 - \eta^{age})`, so that
    units of different ages compare.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024), equation 1. The correction for
        the age is that of the authors' code.
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility, the absolute activations of the step under way, and how they are read."""
        return {
            "utility": Field(),
            "seen": Field(per="feature", lasts="step", holds="absolute activation sum"),
            "outgoing": Field(per="feature", lasts="step", holds="outgoing magnitude"),
        }

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards the contribution in this step."""
        memory.scale("utility", self.decay_rate, samples)
        utility, seen, outgoing = (memory.flat[name] for name in ("utility", "seen", "outgoing"))
        counts = set(samples.values())
        same = counts.pop() if len(counts) == 1 and len(samples) == len(memory.groups) else None
        if isinstance(same, int) and utility.shape == seen.shape:
            utility.addcmul_(seen, outgoing, value=(1 - self.decay_rate) / same)
        else:  # not all groups, several features per unit, or samples that differ or were counted on the device
            for position, count in samples.items():
                part = memory.parts[position]
                part["utility"] += contribution(part["seen"], part["outgoing"]) * ((1 - self.decay_rate) / count)
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)
