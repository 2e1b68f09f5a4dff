"""Utilities relative to the layer's mean, of what was seen since the last decision.

They hold plain sums, which start anew after every decision about the group, so a score belongs to one period and all
units of a layer are compared over the same samples. A silent layer scores 0: all of it is dormant. A unit whose sum is
not finite is replaced and does not touch the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.functional.utility import relative_to_mean
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup


@dataclass(frozen=True)
class Dormancy:
    r"""Mean absolute activation relative to the layer, :math:`E|h_i| / \frac{1}{U} \sum_k E|h_k|`; the mean is 1.

    References:
        Sokar et al., `The dormant neuron phenomenon in deep reinforcement learning` (ICML 2023), equation 1. There the
        mean is over one batch at the time of the decision, here over all samples since the last decision.
    """

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def fields(self) -> Mapping[str, Field]:
        """Return the sum since the last decision, and that of the step under way."""
        return {"magnitude": Field(lasts="decision"), "seen": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the absolute activations of a forward pass."""
        state["seen"] += reading.sum(reading.activation.abs()).mean(1)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Add this step to the sum."""
        _add_up(memory, samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the sum relative to the layer's mean."""
        return relative_to_mean(state["magnitude"])


@dataclass(frozen=True)
class GradientMagnitude:
    r"""Mean absolute gradient of the activation relative to the layer, :math:`E|g_i| / \frac{1}{U} \sum_k E|g_k|`.

    References:
        Liu et al., `Measure gradients, not activations` (ReGraMa, arXiv 2505.24061). There the mean is over one batch
        at the time of the decision, here over all samples since the last decision.
    """

    reads_activation: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = True

    def fields(self) -> Mapping[str, Field]:
        """Return the sum since the last decision, and that of the step under way."""
        return {"magnitude": Field(lasts="decision"), "seen": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the absolute gradients of a backward pass."""
        assert reading.gradient is not None  # noqa: S101 - fed in the backward pass
        state["seen"] += reading.sum(reading.gradient.abs()).mean(1)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Add this step to the sum."""
        _add_up(memory, samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the sum relative to the layer's mean."""
        return relative_to_mean(state["magnitude"])


def _add_up(memory: Memory, samples: Samples) -> None:
    for position in samples:
        state = memory.parts[position]
        state["magnitude"] += state["seen"]
    memory.clear("seen", samples)
