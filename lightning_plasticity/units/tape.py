"""Weights that the model computes from its parameters: weight norm, merged adapters, standardised kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from lightning_plasticity.units.shadow import storage_key

if TYPE_CHECKING:
    from lightning_plasticity.units.sources import Source, Sources


@dataclass(eq=False)
class DerivedUse:
    """How a computed weight was used, like :class:`~.execution.Use`, in the shape of the computed weight."""

    weight: Tensor
    role: Literal["in", "out"]
    labels: Tensor
    time: int
    path: str


@dataclass(eq=False)
class Step:
    """One recorded operation on parameters and constants."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]


class Tape:
    """The operations that saw parameters and constants only, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._made: dict[int, Step] = {}
        self._labelled: set[int] = set()
        self.is_labelling = False

    def record(self, step: Step) -> None:
        """Append an operation."""
        self.steps.append(step)
        for tensor in step.outputs:
            self._made[storage_key(tensor)] = step

    def slice(self, tensor: Tensor) -> list[Step]:
        """Return the recorded operations that ``tensor`` depends on, in order."""
        needed = {storage_key(tensor)}
        found = []
        for step in reversed(self.steps):
            if any(storage_key(t) in needed for t in step.outputs):
                needed |= {storage_key(t) for t in step.inputs}
                found.append(step)
        return found[::-1]

    def leaves(self, tensor: Tensor, sources: Sources) -> list[Source]:
        """Return the parameters that ``tensor`` was computed from."""
        found = [sources.find(t) for step in self.slice(tensor) for t in step.inputs]
        return [s for s in dict.fromkeys(found) if s is not None and s.is_parameter]

    def name(self, tensor: Tensor, sources: Sources) -> object:
        """Return a name of a computed weight that is the same in every run."""
        return (*(s.path for s in self.leaves(tensor, sources)), tuple(tensor.shape))

    def label(self, tensor: Tensor, label_step: Callable[[Step], None]) -> None:
        """Give the entries of a computed tensor the labels of the parameter entries that they depend on.

        Args:
            tensor: The computed tensor.
            label_step: Labels the results of one operation.
        """
        was = self.is_labelling
        for step in self.slice(tensor):
            if id(step) not in self._labelled:
                self._labelled.add(id(step))
                self.is_labelling = True
                label_step(step)
        self.is_labelling = was
