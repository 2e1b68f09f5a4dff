"""What a unit is worth: formulas over sums that the forward pass leaves behind.

A utility says which numbers it remembers of every unit (``fields``), how a forward pass adds to them (``observe``),
what happens to them after an optimizer step (``update``) and how they make a score (``score``). It owns no state: it is
a frozen dataclass of hyper-parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.utility import contribution
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup


@runtime_checkable
class Utility(Protocol):
    """A measure of the worth of units; higher is kept."""

    reads_activation: ClassVar[bool]
    reads_gradient: ClassVar[bool]

    def fields(self) -> Mapping[str, Field]:
        """Return what is remembered of every unit."""

    def observe(self, state: State, reading: Reading) -> None:
        """Add one reading of a forward (or backward) pass to the memory of its group."""

    def update(self, memory: Memory, samples: Mapping[int, Tensor | int]) -> None:
        """Fold what was observed into the memory, after an optimizer step.

        Args:
            memory: The memory of all groups.
            samples: Samples seen since the last step, by position of the group; groups that saw none are missing.
        """

    def score(self, state: State, group: UnitGroup, age: Tensor) -> Tensor:
        """Return the score of every unit, ``[U]``.

        Args:
            state: The memory of the group.
            group: The group.
            age: Ages in optimizer steps, ``[U]``, float64, on the device of the memory.
        """


def outgoing_magnitude(group: UnitGroup) -> Tensor:
    """Return the mean absolute outgoing weight of every feature, ``[U, K]``, or of every unit, ``[U, 1]``.

    The mean is over all entries of all readers. Where the only reader sees several features of a unit (a flatten), the
    features are kept apart.
    """
    if len(group.outgoing) == 1:
        return group.outgoing[0].feature_magnitude()
    sizes = [slot.entries_per_unit for slot in group.outgoing]
    total = sum(slot.magnitude() * (size / sum(sizes)) for slot, size in zip(group.outgoing, sizes, strict=True))
    assert isinstance(total, Tensor)  # noqa: S101 - a group has at least one reader
    return total[:, None]


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
        """Return the running utility, and the sums and products of the step under way."""
        return {"utility": Field(), "seen": Field(per="feature", transient=True), "now": Field(transient=True)}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the absolute activations of a forward pass."""
        state["seen"] += reading.sum(reading.activation.abs())

    def update(self, memory: Memory, samples: Mapping[int, Tensor | int]) -> None:
        """Move the running utility towards the contribution in this step."""
        for position, count in samples.items():
            state = memory.parts[position]
            state["now"].copy_(contribution(state["seen"], outgoing_magnitude(memory.groups[position])) / count)
        decay_towards(memory, "utility", "now", self.decay_rate, samples)
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


def check_decay_rate(decay_rate: float) -> None:
    """Refuse a decay rate outside of ``[0, 1)``.

    Args:
        decay_rate: The rate to check.

    Raises:
        InvalidArgumentError: If it is out of its range.
    """
    if not 0 <= decay_rate < 1:
        raise InvalidArgumentError(
            f"decay_rate={decay_rate!r}",
            "a number in [0, 1): the share of the running average that survives an optimizer step",
            "Pass 0.99 as in the paper, or 0 to look at the last step only",
        )


def corrected(trace: Tensor, decay_rate: float, age: Tensor) -> Tensor:
    """Return a running average that started at 0, divided by the weight it has gathered after ``age`` steps."""
    return trace / (1 - decay_rate**age).clamp_min(torch.finfo(torch.float64).tiny)


def decay_towards(memory: Memory, trace: str, now: str, decay_rate: float, samples: Mapping[int, Tensor | int]) -> None:
    """Move the field ``trace`` towards the field ``now``, in all groups that saw something."""
    if len(samples) == len(memory.groups):
        memory.flat[trace].lerp_(memory.flat[now], 1 - decay_rate)
        return
    for position in samples:
        state = memory.parts[position]
        state[trace].lerp_(state[now], 1 - decay_rate)
