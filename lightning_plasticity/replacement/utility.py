"""What a unit is worth: statistics that make a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.functional.utility import contribution
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import (
    Samples,
    Statistic,
    check_decay_rate,
    corrected,
)
from lightning_plasticity.units import Slot, UnitGroup


@runtime_checkable
class Utility(Statistic, Protocol):
    """A measure of the worth of units; higher is kept."""

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the score of every unit, ``[U]``.

        Args:
            state: The memory of the group.
            group: The group.
            age: Ages in optimizer steps, ``[U]``, float64, on the device of the memory.
            generator: Source of randomness, on the host, equal on all processes.
        """


def outgoing_magnitude(group: UnitGroup) -> Tensor:
    """Return the mean absolute outgoing weight of every feature, ``[U, K]``, or of every unit, ``[U, 1]``.

    The mean is over all entries of all readers. Where the only reader sees several features of a unit (a flatten), the
    features are kept apart.
    """
    if len(group.outgoing) == 1:
        return group.outgoing[0].feature_magnitude()
    return mean_magnitude(group.outgoing)[:, None]


def incoming_magnitude(group: UnitGroup) -> Tensor:
    """Return the mean absolute incoming weight of every unit, without its bias, ``[U]``."""
    return mean_magnitude([slot for slot in group.incoming if slot.kind == "weight"])


def mean_magnitude(slots: Sequence[Slot]) -> Tensor:
    """Return the mean absolute entry of every unit over all entries of all slots, ``[U]``."""
    sizes = [slot.entries_per_unit for slot in slots]
    shares = [slot.magnitude() * (size / sum(sizes)) for slot, size in zip(slots, sizes, strict=True)]
    return torch.stack(shares).sum(0) if len(shares) > 1 else shares[0]


def write_outgoing_sums(group: UnitGroup, out: Tensor) -> int:
    """Write the sum of the absolute outgoing weights of every feature and return the number of entries it is of.

    Args:
        group: The group.
        out: Receives the sums, ``[U * K]``. Where several readers see different features, those of a unit get the same.

    Returns:
        The entries per feature, so that ``out`` divided by it is the mean.
    """
    first = group.outgoing[0]
    if len(group.outgoing) == 1 and first.total_features == out.numel():
        first.absolute_sums(out)
        return first.entries_per_feature
    out.view(group.size, -1).copy_(outgoing_magnitude(group))
    return 1


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
        """Return the running utility, and the sums of absolute activations and weights in the step under way."""
        return {
            "utility": Field(),
            "seen": Field(per="feature", lasts="step", sums="absolute activation"),
            "outgoing": Field(per="feature", lasts="step"),
        }

    def update(self, memory: Memory, samples: Samples) -> None:
        """Move the running utility towards the contribution in this step."""
        memory.scale("utility", self.decay_rate, samples)
        rows: list[State] = []
        weights: list[float] = []
        for position, count in samples.items():
            group, row = memory.groups[position], memory.rows[position]
            weight = (1 - self.decay_rate) / (count * write_outgoing_sums(group, row["outgoing"]))
            if isinstance(weight, float) and row["seen"].numel() == group.size:
                rows.append(row)
                weights.append(weight)
            else:  # several features per unit, or samples that were counted on the device
                part = memory.parts[position]
                part["utility"] += weight * contribution(part["seen"], part["outgoing"])
        if rows:
            utility, seen, outgoing = ([row[name] for row in rows] for name in ("utility", "seen", "outgoing"))
            torch._foreach_addcmul_(utility, seen, outgoing, scalars=weights)
        memory.clear("seen", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the running utility, corrected for the age."""
        return corrected(state["utility"], self.decay_rate, age)
