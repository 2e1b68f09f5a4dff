r"""Utilities of the gradient: by how much the loss would change without the unit.

Both start from the first-order change of the loss of one example if the unit's activation were 0,
:math:`\delta = \sum h\, \partial L / \partial h` over the positions and features of the unit. The gradient is that of
the loss which was differentiated. For a mean over the batch the sums here are means over the examples, whatever the
batch size, also over micro-batches. Under a gradient scaler the gradients carry its factor: it is the same for all
units, but after the factor changed a running utility takes some ``1 / (1 - decay_rate)`` steps to follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples, check_decay_rate, corrected, track
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup


@dataclass(frozen=True)
class GradientUtility:
    r"""First-order change of the loss without the unit, :math:`E|\delta|`, averaged over time, corrected for the age.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        Molchanov et al., `Pruning convolutional neural networks for resource efficient inference` (ICLR 2017),
        equation 8, where it is averaged over the positions of a map before the absolute value; here they are added up,
        which leaves the order within a layer the same.
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility, and the sums of the step under way."""
        return {"utility": Field(), "seen": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the absolute changes of a backward pass."""
        state["seen"] += _change(state, reading).abs().sum(0)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards that of this step."""
        track(memory, samples, self.decay_rate, lambda state, group, count: state["seen"])
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class Fisher:
    r"""Squared first-order change of the loss, :math:`E[\delta^2]`, averaged over time, corrected for the age.

    The diagonal of the empirical Fisher information with respect to a gate on the unit; half of it approximates the
    second-order change of the loss without the unit. It is measured per sample, so on maps it is larger by the number
    of positions for all units alike.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        Theis et al., `Faster gaze prediction with dense networks and Fisher pruning` (arXiv 1801.05787), equation 9.
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility, and the sums of the step under way."""
        return {"utility": Field(), "seen": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the squared changes of a backward pass."""
        state["seen"] += _change(state, reading).square().sum(0)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards that of this step; a mean loss has divided every change by the count."""
        track(memory, samples, self.decay_rate, lambda state, group, count: state["seen"] * count)
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


def _change(state: State, reading: Reading) -> Tensor:
    """The change of the loss without the unit, per example, ``[N, U]``, in the precision of the memory."""
    assert reading.gradient is not None  # noqa: S101 - these utilities are fed in the backward pass
    dtype = state["seen"].dtype
    return reading.examples(reading.activation.to(dtype) * reading.gradient.to(dtype))
