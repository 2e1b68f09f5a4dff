"""What happens to a unit when it is replaced: each edit is one change of its numbers.

An edit may look at the layer when the engine is built (``prepare``) and keep tensors; they travel in the checkpoint.
Values are assigned, never multiplied, so that a unit full of NaN recovers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.errors import check_number
from lightning_plasticity.replacement.initializers import (
    Family,
    check_initializer,
    detect_distribution,
    distribution_of,
    draw,
)
from lightning_plasticity.replacement.memory import State
from lightning_plasticity.replacement.statistic import Statistic
from lightning_plasticity.units import Slot, UnitGroup

Initializer = Literal[
    "default",
    "kaiming_uniform",
    "kaiming_normal",
    "lecun_uniform",
    "lecun_normal",
    "xavier_uniform",
    "xavier_normal",
    "orthogonal",
]


@dataclass(frozen=True)
class Replacement:
    """The replacement of some units of one group.

    Args:
        group: The group.
        units: The units to replace, lowest score first, ``[R]``, int64 on the host.
        score: Score of every unit, ``[U]``, on the host.
        state: What the method remembers of the group, not yet renewed.
        held: What the edit's ``prepare`` returned for the group.
        generator: Source of randomness, equal on all processes.
    """

    group: UnitGroup
    units: Tensor
    score: Tensor
    state: State
    held: State
    generator: torch.Generator


@runtime_checkable
class Edit(Protocol):
    """One change of the numbers of replaced units."""

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What has to be measured for the edit; usually nothing."""

    def prepare(self, group: UnitGroup) -> State:
        """Return what the edit has to know of the group before training changes it."""

    def __call__(self, replacement: Replacement) -> None:
        """Change the numbers of the replaced units."""


@dataclass(frozen=True)
class RedrawIncoming:
    """Draw the incoming weights anew, the way the layer itself was initialised; incoming biases become 0.

    Biases restart at 0 even where the layer drew them at random, as in the authors' code. Weights that were all equal
    are drawn from PyTorch's default, since equal units would never come apart.

    Args:
        initializer: The layer's own initialiser if None, found out by looking at its weights when the engine is built
            (see :func:`~lightning_plasticity.replacement.initializers.detect_distribution`); otherwise a name.
        gain: Gain of a named Kaiming, Xavier or orthogonal initialiser, greater than 0; sqrt 2 suits ReLU.

    Raises:
        InvalidArgumentError: If the name is unknown or the gain is not positive.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024), Algorithm 1.
    """

    initializer: Initializer | None = None
    gain: float = math.sqrt(2)

    statistics: ClassVar[tuple[Statistic, ...]] = ()

    def __post_init__(self) -> None:
        if self.initializer is not None:
            check_initializer(self.initializer)
        check_number("gain", self.gain, "(0, inf)", remedy="Pass 1 for tanh, sqrt 2 for ReLU")

    def prepare(self, group: UnitGroup) -> State:
        """Return the distribution of every slot that is redrawn."""
        return {key: self._distribution(slot) for key, slot in _drawn(group).items()}

    def __call__(self, replacement: Replacement) -> None:
        """Redraw weights and set biases to 0."""
        units = replacement.units
        for key, slot in _drawn(replacement.group).items():
            fresh = draw(replacement.held[key], slot.shape_of(units), replacement.generator)
            slot.assign(units, fresh.to(slot.tensor.device))
        for slot in replacement.group.incoming:
            if slot.neutral is not None:
                slot.assign(units, slot.neutral)

    def _distribution(self, slot: Slot) -> Tensor:
        rows = slot.gather(torch.arange(slot.size, device="cpu")).flatten(1)
        fan_in, fan_out = _fans(slot.tensor)
        if self.initializer is not None and slot.kind == "weight":
            return distribution_of(self.initializer, fan_in, fan_out, self.gain)
        found = detect_distribution(rows, fan_in, fan_out)
        if slot.kind == "weight" and int(found[0]) == Family.CONSTANT:  # equal units would never come apart
            return distribution_of("default", fan_in, fan_out, self.gain)
        return found


@dataclass(frozen=True)
class RewindIncoming:
    """Return the incoming weights and biases to the values they had when the engine was built.

    References:
        Frankle and Carbin, `The lottery ticket hypothesis` (ICLR 2019), where surviving weights are rewound.
    """

    statistics: ClassVar[tuple[Statistic, ...]] = ()

    def prepare(self, group: UnitGroup) -> State:
        """Return a copy of the first values."""
        return {key: slot.gather(torch.arange(slot.size, device="cpu")) for key, slot in _written(group).items()}

    def __call__(self, replacement: Replacement) -> None:
        """Write the first values back."""
        for key, slot in _written(replacement.group).items():
            first = replacement.held[key]
            slot.assign(replacement.units, first[replacement.units.to(first.device)])


@dataclass(frozen=True)
class CloneBest:
    """Copy the incoming weights of the unit with the best score and perturb them.

    Args:
        noise_std: Standard deviation of the perturbation, as a share of the root mean square of the copied weights.

    Raises:
        InvalidArgumentError: If ``noise_std`` is negative.
    """

    noise_std: float = 0.1

    statistics: ClassVar[tuple[Statistic, ...]] = ()

    def __post_init__(self) -> None:
        check_number("noise_std", self.noise_std, "[0, inf)", remedy="Pass a share such as 0.1")

    def prepare(self, group: UnitGroup) -> State:
        """Return nothing: the best unit is found when it is needed."""
        return {}

    def __call__(self, replacement: Replacement) -> None:
        """Overwrite the replaced units with perturbed copies of the best one that stays."""
        score = torch.where(replacement.score.isfinite(), replacement.score, -torch.inf).clone()
        score[replacement.units] = -torch.inf
        best = score.argmax()[None]
        for slot in _written(replacement.group).values():
            source = slot.gather(best)
            shape = (len(replacement.units), *source.shape[1:])
            noise = torch.randn(shape, dtype=torch.float64, generator=replacement.generator, device="cpu")
            size = source.detach().double().square().mean().sqrt() * self.noise_std
            slot.assign(replacement.units, source + noise.to(source.device) * size)


@dataclass(frozen=True)
class ZeroOutgoing:
    """Set the outgoing weights to 0, so that a new unit does not change what the network computes yet."""

    statistics: ClassVar[tuple[Statistic, ...]] = ()

    def prepare(self, group: UnitGroup) -> State:
        """Return nothing."""
        return {}

    def __call__(self, replacement: Replacement) -> None:
        """Set the outgoing entries to 0."""
        for slot in replacement.group.outgoing:
            slot.assign(replacement.units, 0.0)


@dataclass(frozen=True)
class ResetNorms:
    """Give norms on the way a fresh start: scale 1, shift 0, running mean 0, running variance 1."""

    statistics: ClassVar[tuple[Statistic, ...]] = ()

    def prepare(self, group: UnitGroup) -> State:
        """Return nothing."""
        return {}

    def __call__(self, replacement: Replacement) -> None:
        """Set every norm entry of the units to the value at which it does nothing."""
        for slot in replacement.group.norms:
            if slot.neutral is not None:
                slot.assign(replacement.units, slot.neutral)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out as :mod:`torch.nn.init` counts them."""
    if tensor.ndim < 2:
        return 1, 1
    positions = tensor[0, 0].numel()
    return tensor.shape[1] * positions, tensor.shape[0] * positions


def _drawn(group: UnitGroup) -> dict[str, Slot]:
    """The slots without a neutral value, on the way in: weights, and what is carried (depthwise kernels, slopes)."""
    return _by_key(slot for slot in group.incoming + group.norms if slot.neutral is None)


def _written(group: UnitGroup) -> dict[str, Slot]:
    """All incoming slots, and what is carried."""
    return _by_key((*group.incoming, *(slot for slot in group.norms if slot.neutral is None)))


def _by_key(slots: Iterable[Slot]) -> dict[str, Slot]:
    """A name per slot for checkpoints; a tensor may hold several slots of a group, so the path is not enough."""
    return {f"{position}:{slot.path}": slot for position, slot in enumerate(slots)}
