"""The recipe of a computed weight: the operations that made it, which can be run again on other numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_plasticity.units.statistics import has_statistics, statistics_of, with_statistics
from lightning_plasticity.units.tensors import tensors_in, to_generic_position
from lightning_plasticity.units.tracing.shadow import storage_key
from lightning_plasticity.units.tracing.tape import DerivedUse, Step

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution
    from lightning_plasticity.units.tracing.source import Source


@dataclass(eq=False)
class Recipe:
    """How a weight was computed: operations that can be run again on other numbers.

    Numbers are kept per storage, flat, and addressed as the model addressed them, so that views need no operations.

    Args:
        weight: The weight, or a view of it.
        steps: The operations, in order.
        sources: The parameters and buffers that go in.
        numbers: Their numbers in generic position, flat, by storage.
    """

    weight: Tensor
    steps: list[Step]
    sources: list[Source]
    numbers: dict[int, Tensor]

    @classmethod
    def of(cls, run: Execution, use: DerivedUse) -> Recipe:
        """Return the recipe of a weight that was used."""
        steps = run.tape.slice(use.weight, use.end)
        found = [run.sources.find(tensor) for step in steps for tensor in step.inputs]
        sources = [s for s in dict.fromkeys(found) if s is not None and s.tensor.is_floating_point()]
        generator = torch.Generator().manual_seed(0)
        numbers: dict[int, Tensor] = {}
        for source in sources:
            flat = numbers.setdefault(storage_key(source.tensor), _whole(source.tensor).clone())
            to_generic_position(view(flat, source.tensor), generator)
        return cls(use.weight, steps, sources, numbers)

    def run(self, numbers: dict[int, Tensor], statistics: dict[int, Any], *, hold: bool = False) -> Tensor:
        """Compute the weight.

        Args:
            numbers: What goes in, flat, by storage.
            statistics: By position of the operation; filled, or used if they are held.
            hold: Whether statistics are constant.

        Returns:
            The weight, or the view of it.
        """
        memory = dict(numbers)

        def read(value: Any) -> Any:
            flat = memory.get(storage_key(value)) if isinstance(value, Tensor) else None
            return value if flat is None else view(flat, value)

        for position, step in enumerate(self.steps):
            for tensor in step.written:
                key = storage_key(tensor)
                memory[key] = memory.get(key, _whole(tensor)).clone()
            args, kwargs = tree_map(read, (step.args, step.kwargs))
            has = has_statistics(step.func, args)
            held = statistics[position] if has and hold else None
            out = with_statistics(step.func, args, kwargs, held) if has and hold else step.func(*args, **kwargs)
            if has and not hold:
                statistics[position] = statistics_of(step.func, out)
            for tensor, new in zip(step.outputs, tensors_in(out), strict=False):
                if all(tensor is not written for written in step.written):
                    memory[storage_key(tensor)] = _flattened(new, tensor)
        return view(memory[storage_key(self.weight)], self.weight)


def _whole(tensor: Tensor) -> Tensor:
    """Return the storage of ``tensor`` as a flat tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def view(flat: Tensor, like: Tensor) -> Tensor:
    """Return the part of a storage, given flat, that ``like`` is of its own."""
    return flat.as_strided(like.shape, like.stride(), like.storage_offset())


def _flattened(new: Tensor, like: Tensor) -> Tensor:
    """Return the storage of a result that was computed again."""
    if new.stride() != like.stride() or new.storage_offset() != like.storage_offset():
        raise RuntimeError("an operation laid out its result in another way than the first time")
    return new.as_strided((new.untyped_storage().nbytes() // new.element_size(),), (1,), 0)
