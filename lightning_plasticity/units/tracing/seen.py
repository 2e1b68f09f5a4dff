"""What is known of a tensor at a moment of a run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from lightning_plasticity.units.tracing.shadow import Origin, geometry
from lightning_plasticity.units.tracing.source import Source


@dataclass(eq=False, slots=True)
class Seen:
    """What is known of a tensor at a moment.

    Args:
        tensor: The tensor.
        source: The parameter or buffer that it is, or is a view of, if it is one.
        origin: What it was computed from.
        labels: Its compact labels; None for a constant, and for data without any unit.
    """

    tensor: Tensor
    source: Source | None
    origin: Origin
    labels: Tensor | None

    @property
    def is_weight(self) -> bool:
        """Whether it is a parameter, a view of one, or computed from parameters only."""
        return self.origin is Origin.DERIVED if self.source is None else self.source.is_parameter

    @property
    def is_data(self) -> bool:
        """Whether it depends on the example."""
        if self.source is None:
            return self.origin is Origin.DATA
        return self.labels is not None and not self.source.is_parameter

    @property
    def identity(self) -> Hashable | None:
        """All that rules may learn about it; None if they may look at its values or at its history."""
        if self.source is not None:
            return id(self.source), geometry(self.tensor), id(self.labels)
        if self.origin is Origin.DERIVED or not self.tensor.is_floating_point():
            return None
        return self.origin, self.tensor.shape, id(self.labels)
