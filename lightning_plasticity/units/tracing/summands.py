"""Which parameters are merely added in a computed tensor, so that they are biases where it is added to units.

A bias may be cast (as autocast does), scaled by a constant (as in an equalised learning rate) or one part of several
that are concatenated. Set to zero it still adds nothing, which is all that a bias has to be. A parameter that anything
else is done with, or that another parameter scales, is none: which of two factors were the bias cannot be said.
"""

from __future__ import annotations

from torch import Tensor

from lightning_plasticity.units.tracing.shadow import storage_key
from lightning_plasticity.units.tracing.source import Source
from lightning_plasticity.units.tracing.sources import Sources
from lightning_plasticity.units.tracing.tape import Step, operation

_KEEPING = frozenset({"_to_copy", "clone", "neg", "copy", "cat", "stack", "add", "sub", "rsub"})
"""The operations whose results are sums of all tensors that go in, one by one."""

_WITH_BIAS = frozenset({"addmm", "addmv", "baddbmm"})
"""The operations that add their first argument to a product of the others."""


def summands(tensor: Tensor, steps: list[Step], sources: Sources) -> set[Source]:
    """Return the parameters that only sums, casts and constant factors lead from to ``tensor``.

    Args:
        tensor: The computed tensor.
        steps: The operations that it depends on, in order.
        sources: The tensors of the model.
    """
    made = {storage_key(t) for step in steps for t in step.outputs}
    added, mixed = {storage_key(tensor)}, set[int]()
    found: dict[bool, set[Source]] = {True: set(), False: set()}
    for step in reversed(steps):
        keys = {storage_key(t) for t in step.outputs}
        if not keys & (added | mixed):
            continue  # it wrote into the same memory later than what is asked for was read
        kept = [] if keys & mixed else _summed(step, made, sources)
        for t in step.inputs:
            is_kept = any(t is each for each in kept)
            (added if is_kept else mixed).add(storage_key(t))
            if (source := sources.find(t)) is not None and source.is_parameter:
                found[is_kept].add(source)
    return found[True] - found[False]


def _summed(step: Step, made: set[int], sources: Sources) -> list[Tensor]:
    """Return the inputs of an operation of which its result is a sum, each times a constant."""
    if not all(t.is_floating_point() for t in step.outputs):
        return []
    name = operation(step).removesuffix("_")  # in place or not
    weights = [t for t in step.inputs if storage_key(t) in made or _is_parameter(sources.find(t))]
    if name in _KEEPING:
        return weights
    if name in _WITH_BIAS:
        return [t for t in weights if t is step.args[0] and all(t is not factor for factor in step.args[1:])]
    by_constants = name == "mul" or (name == "div" and any(t is step.args[0] for t in weights))
    return weights if by_constants and len(weights) == 1 else []


def _is_parameter(source: Source | None) -> bool:
    return source is not None and source.is_parameter
