"""What is measured of units while a model trains: sums over samples, folded into running averages at every step.

A statistic says which numbers it remembers of every unit (``fields``) and what happens to them after an optimizer step
(``update``). The engine adds up activations in the fields that ask for it; a statistic that needs more of a forward or
backward pass is an :class:`Observer`. It owns no state: it is a frozen dataclass of hyper-parameters. A utility is a
statistic that also makes a score; an edit may ask for statistics of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.errors import check_number
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup

Samples = Mapping[int, Tensor | int]
"""Samples seen since the last step, by position of the group; groups that saw none are missing."""


@runtime_checkable
class Statistic(Protocol):
    """Something that is measured of every unit."""

    reads_activation: ClassVar[bool]
    reads_gradient: ClassVar[bool]

    def fields(self) -> Mapping[str, Field]:
        """Return what is remembered of every unit."""

    def update(self, memory: Memory, samples: Samples) -> None:
        """Fold what was observed into the memory, after an optimizer step.

        Args:
            memory: The memory of all groups.
            samples: Samples seen since the last step, by position of the group; groups that saw none are missing.
        """


@runtime_checkable
class Observer(Statistic, Protocol):
    """A statistic that looks at every reading itself."""

    def observe(self, state: State, reading: Reading) -> None:
        """Add one reading of a forward (or backward) pass to the memory of its group."""


@dataclass(frozen=True)
class MeanActivation:
    r"""The running mean activation of every feature, :math:`\mu \leftarrow \eta \mu + (1 - \eta)\, E[h]`.

    Args:
        decay_rate: Decay :math:`\eta` of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running mean, the share of it that is still the initial 0, and the sums of the step under way."""
        return {
            "mean_activation": Field(per="feature"),
            "mean_activation_missing": Field(fresh=1.0),
            "mean_activation_sum": Field(per="feature", lasts="step", holds="activation sum"),
        }

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running mean towards the mean activation in this step."""
        for position, count in samples.items():
            state = memory.parts[position]
            state["mean_activation"].lerp_(state["mean_activation_sum"] / count, 1 - self.decay_rate)
            state["mean_activation_missing"].mul_(self.decay_rate)
        memory.clear("mean_activation_sum", samples)

    @staticmethod
    def of(state: State) -> Tensor:
        """Return the mean activation of every feature, corrected for the initial 0, ``[U, K]``; 0 before any step."""
        known = 1 - state["mean_activation_missing"]
        return state["mean_activation"] / known.clamp_min(torch.finfo(known.dtype).tiny)[:, None]


def check_decay_rate(decay_rate: float) -> None:
    """Refuse a decay rate outside of ``[0, 1)``.

    Args:
        decay_rate: The rate to check.

    Raises:
        InvalidArgumentError: If it is out of its range.
    """
    check_number(
        "decay_rate",
        decay_rate,
        "[0, 1)",
        meaning="the share of the running average that survives an optimizer step",
        remedy="Pass 0.99 as in the paper, or 0 to look at the last step only",
    )


def corrected(trace: Tensor, decay_rate: float, age: Tensor) -> Tensor:
    """Return a running average that started at 0, divided by the weight it has gathered after ``age`` steps."""
    return trace / (1 - decay_rate**age).clamp_min(torch.finfo(torch.float64).tiny)


def track(
    memory: Memory, samples: Samples, decay_rate: float, worth: Callable[[State, UnitGroup, Tensor | int], Tensor]
) -> None:
    """Move the field ``utility`` towards the worth of the units in this step.

    Args:
        memory: The memory of all groups.
        samples: Samples seen since the last step, by position of the group.
        decay_rate: Decay of the running utility.
        worth: Returns the worth of the units of a group in this step, ``[U]``, from its memory and sample count.
    """
    for position, count in samples.items():
        state = memory.parts[position]
        now = worth(state, memory.groups[position], count)
        state["utility"].lerp_(now.to(state["utility"].dtype), 1 - decay_rate)
