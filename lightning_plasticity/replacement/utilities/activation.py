r"""Utilities of the activation: its magnitude, and its deviation from the running mean.

Three of them measure how far an activation is from its own mean, :math:`E|h - \hat\mu|`, since a unit that always
answers the same could be replaced by a bias. The mean runs over the steps, contains the batch at hand and is corrected
for the age: :math:`\mu \leftarrow \eta\mu + (1 - \eta) E[h]`, :math:`\hat\mu = \mu / (1 - \eta^{age})`, with one
mean per unit, over all its features and positions. With gradient accumulation a micro-batch is compared with the mean
of the micro-batches so far, since the later ones are not known yet and no activation is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.functional.utility import contribution
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples, check_decay_rate, corrected, track
from lightning_plasticity.replacement.utilities.magnitudes import outgoing_magnitude
from lightning_plasticity.replacement.utilities.weight import adaptation
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup


@dataclass(frozen=True)
class ActivationOnly:
    r"""Mean absolute activation :math:`E|h|`, averaged over time and corrected for the age; weights are not looked at.

    Args:
        decay_rate: Decay of the running average, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility, and the sums of the step under way."""
        return {"utility": Field(), "seen": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Add the absolute activations of a forward pass."""
        state["seen"] += reading.sum(reading.activation.abs()).mean(1)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards the mean absolute activation in this step."""
        track(memory, samples, self.decay_rate, lambda state, group, count: state["seen"] / count)
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class ZeroContribution:
    r"""Deviation from the mean times outgoing weight, :math:`E|h - \hat\mu| \cdot \overline{|w_{out}|}`, over time.

    Args:
        decay_rate: Decay :math:`\eta` of the running averages, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        ``zero_contribution`` in the code of Dohare et al., `Loss of plasticity in deep continual learning` (2024).
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility and mean, and the sums of the step under way."""
        return _deviation_fields()

    def observe(self, state: State, reading: Reading) -> None:
        """Add the deviations of a forward pass from the running mean that includes it."""
        _observe_deviation(state, reading, self.decay_rate)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running mean and utility towards those of this step."""
        track(memory, samples, self.decay_rate, _weighed_deviation)
        _update_mean(memory, samples, self.decay_rate)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class AdaptableContribution:
    r"""Deviation times outgoing over incoming weight, over time.

    :math:`E|h - \hat\mu|\, \overline{|w_{out}|} / \overline{|w_{in}|}`: a unit is kept if it does much and can still
    change. The utility of the published runs on Permuted MNIST, Continual ImageNet and the regression problem, averaged
    over time and corrected for the age.

    Args:
        decay_rate: Decay :math:`\eta` of the running averages, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        Dohare et al., `Continual backprop` (arXiv 2108.06325), overall utility; ``adaptable_contribution`` in the code
        of Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024).
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility and mean, and the sums of the step under way."""
        return _deviation_fields()

    def observe(self, state: State, reading: Reading) -> None:
        """Add the deviations of a forward pass from the running mean that includes it."""
        _observe_deviation(state, reading, self.decay_rate)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running mean and utility towards those of this step."""
        track(memory, samples, self.decay_rate, lambda s, g, count: _weighed_deviation(s, g, count) * adaptation(g))
        _update_mean(memory, samples, self.decay_rate)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


@dataclass(frozen=True)
class DeviationByInput:
    r"""Deviation over incoming weight, :math:`E|h - \hat\mu| / \overline{|w_{in}|}`, over time; readers are ignored.

    Args:
        decay_rate: Decay :math:`\eta` of the running averages, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.

    References:
        ``feature_by_input`` in the code of Dohare et al., `Loss of plasticity in deep continual learning` (2024).
    """

    decay_rate: float = 0.99

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    def fields(self) -> Mapping[str, Field]:
        """Return the running utility and mean, and the sums of the step under way."""
        return _deviation_fields()

    def observe(self, state: State, reading: Reading) -> None:
        """Add the deviations of a forward pass from the running mean that includes it."""
        _observe_deviation(state, reading, self.decay_rate)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running mean and utility towards those of this step."""
        track(memory, samples, self.decay_rate, lambda s, group, count: s["seen"].mean(1) / count * adaptation(group))
        _update_mean(memory, samples, self.decay_rate)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)


def _deviation_fields() -> Mapping[str, Field]:
    return {
        "utility": Field(),
        "mean": Field(),
        "missing": Field(fresh=1.0),  # the share of the mean that is still the initial 0, decay_rate ** age
        "sum": Field(lasts="step"),
        "count": Field(lasts="step"),
        "seen": Field(per="feature", lasts="step"),
    }


def _observe_deviation(state: State, reading: Reading, decay_rate: float) -> None:
    state["sum"] += reading.sum(reading.activation).mean(1)
    state["count"] += reading.samples
    mean = state["mean"].lerp(state["sum"] / state["count"], 1 - decay_rate) / (1 - decay_rate * state["missing"])
    state["seen"] += reading.sum((reading.activation - reading.spread(mean)).abs())


def _weighed_deviation(state: State, group: UnitGroup, count: Tensor | int) -> Tensor:
    return contribution(state["seen"], outgoing_magnitude(group)) / count


def _update_mean(memory: Memory, samples: Samples, decay_rate: float) -> None:
    for position, count in samples.items():
        state = memory.parts[position]
        state["mean"].lerp_(state["sum"] / count, 1 - decay_rate)
        state["missing"].mul_(decay_rate)
    for name in ("sum", "count", "seen"):
        memory.clear(name, samples)
