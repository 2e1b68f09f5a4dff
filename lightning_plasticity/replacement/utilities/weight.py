"""Utilities that look at weights only, and one that looks at nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples, check_decay_rate, corrected, track
from lightning_plasticity.replacement.utilities.magnitudes import incoming_magnitude, outgoing_magnitude
from lightning_plasticity.units import UnitGroup


@dataclass(frozen=True)
class WeightMagnitude:
    r"""Mean absolute outgoing weight :math:`\overline{|w_{out}|}`, averaged over time and corrected for the age.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        ``weight`` in the code of Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024).
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility."""
        return {"utility": Field()}

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards the magnitude after this step."""
        track(memory, samples, self.decay_rate, lambda state, group, count: outgoing_magnitude(group).mean(1))

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class Adaptation:
    r"""How fast a unit can change: :math:`1 / \overline{|w_{in}|}`, averaged over time and corrected for the age.

    Incoming weights of 0 count as machine precision, so that the score stays finite.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        Dohare et al., `Continual backprop` (arXiv 2108.06325); ``adaptation`` in the code of Dohare et al. (2024).
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility."""
        return {"utility": Field()}

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards the adaptation after this step."""
        track(memory, samples, self.decay_rate, lambda state, group, count: adaptation(group))

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class Random:
    """Scores drawn anew at every decision: the control for every other utility."""

    reads_activation: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = False

    def fields(self) -> Mapping[str, Field]:
        """Return nothing: nothing is remembered."""
        return {}

    def update(self, memory: Memory, samples: Samples) -> None:
        """Do nothing."""

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return uniform numbers in ``[0, 1)``, on the host."""
        return torch.rand(group.size, dtype=torch.float64, generator=generator, device="cpu")


def adaptation(group: UnitGroup) -> Tensor:
    """Return one over the mean absolute incoming weight of every unit, ``[U]``; finite where the weights are 0."""
    magnitude = incoming_magnitude(group)
    return 1 / magnitude.clamp_min(torch.finfo(magnitude.dtype).eps)
