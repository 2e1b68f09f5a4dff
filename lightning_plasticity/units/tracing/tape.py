"""The operations by which a model computes weights from its parameters: weight norm, merged adapters, pruning masks.

What is computed from parameters and constants only is recorded, so that it can be labelled if it is used element by
element, and run again on other numbers if it is used as a weight (see ``computed``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from lightning_plasticity.units.tracing.shadow import Geometry, geometry, storage_key

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.source import Source
    from lightning_plasticity.units.tracing.sources import Sources

Role: TypeAlias = Literal["in", "out"]
"""Whether the rows of a weight write or its columns read."""


@dataclass(eq=False)
class DerivedUse:
    """How a computed weight was used, like :class:`~.execution.Use`.

    Args:
        weight: The computed weight, or a view of it.
        role: Whether its rows write or its columns read.
        labels: Compact labels of its rows or columns, in its dimensions.
        time: When it was used so.
        run: In which run.
        path: The module that used it.
        end: How many operations had been recorded by then.
    """

    weight: Tensor
    role: Role
    labels: Tensor
    time: int
    run: int
    path: str
    end: int


@dataclass(eq=False)
class Step:
    """One recorded operation on parameters and constants.

    Args:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        inputs: The tensors among the arguments.
        outputs: The tensors returned, and those changed in place.
        written: The tensors changed in place.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    written: list[Tensor]


class Tape:
    """The operations that saw parameters and constants only, in order; views are not among them."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._made: dict[int, list[int]] = {}  # by storage, the positions of the steps that wrote it
        self._labelled: set[int] = set()
        self.is_labelling = False

    def record(self, step: Step) -> None:
        """Append an operation."""
        for key in {storage_key(tensor) for tensor in step.outputs}:
            self._made.setdefault(key, []).append(len(self.steps))
        self.steps.append(step)

    def slice(self, tensor: Tensor, end: int | None = None) -> list[Step]:
        """Return the recorded operations that ``tensor`` depends on, in order.

        Args:
            tensor: The computed tensor.
            end: How many operations to look at; default all.
        """
        end = len(self.steps) if end is None else end
        found: set[int] = set()
        seen: set[int] = set()
        open_keys = [storage_key(tensor)]
        while open_keys:
            key = open_keys.pop()
            if key not in seen:
                seen.add(key)
                new = {position for position in self._made.get(key, ()) if position < end} - found
                found |= new
                open_keys += [storage_key(t) for position in new for t in self.steps[position].inputs]
        return [self.steps[position] for position in sorted(found)]

    def name(self, tensor: Tensor, sources: Sources) -> object:
        """Return a name of a computed weight that is the same in every run: what goes in, and how large it is."""
        return parts_read(self.slice(tensor), sources), tensor.shape

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


def operations(steps: list[Step]) -> str:
    """Return the names of operations, for people."""
    return ", ".join(dict.fromkeys(map(operation, steps)))


def operation(step: Step) -> str:
    """Return the name of one operation, without its namespace and variant."""
    return str(step.func).split(".")[1]


def leaves(steps: list[Step], sources: Sources) -> list[Source]:
    """Return the parameters that go into operations."""
    found = [sources.find(t) for step in steps for t in step.inputs]
    return [s for s in dict.fromkeys(found) if s is not None and s.is_parameter]


def parts_read(steps: list[Step], sources: Sources) -> tuple[tuple[str, Geometry], ...]:
    """Return which part of which parameter goes into operations, as often as it does."""
    found = [(sources.find(t), t) for step in steps for t in step.inputs]
    return tuple((s.path, geometry(t)) for s, t in found if s is not None and s.is_parameter)
