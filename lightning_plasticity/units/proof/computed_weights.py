"""Weights that a model computes from its parameters: a product of two, a softmax or an exponential of one, a norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lightning_plasticity.units.proof.unread import storage_of


class ComputedWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note, and change on request, every weight that was computed from parameters alone, as it meets an activation.

    Constants count as parameters.

    Args:
        parameters: The parameters and buffers of the model.
        zeroed: Entries to set to zero: a mask per weight, in the order in which they are met.
    """

    def __init__(self, parameters: Iterable[Tensor], zeroed: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stored = {storage_of(parameter) for parameter in parameters}
        self._computed: dict[int, Tensor] = {}  # by storage; held, so that no other tensor comes to lie there
        self._zeroed = zeroed
        self.met: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = self._stored | self._computed.keys()
        alone = func is torch.ops.aten.lift_fresh.default or all(storage_of(tensor) in known for tensor in tensors)
        if not alone:
            args, kwargs = tree_map(self._meet, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            if alone and storage_of(tensor) not in self._stored:
                self._compute(tensor, tensors)
            elif not alone:
                self._computed.pop(storage_of(tensor), None)  # an activation was written into it
        return result

    def _compute(self, weight: Tensor, parts: Sequence[Tensor]) -> None:
        self._computed[storage_of(weight)] = weight

    def _meet(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or storage_of(leaf) not in self._computed:
            return leaf
        number = len(self.met)
        self.met.append(leaf.clone())
        fits = number < len(self._zeroed) and self._zeroed[number].shape == leaf.shape
        return leaf.masked_fill(self._zeroed[number], 0.0) if fits else leaf


def changes(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    """Return where computed weights differ between two runs, a mask per weight; nowhere if these are others."""
    same = [one.shape for one in before] == [other.shape for other in after]
    return [one != (other if same else one) for one, other in zip(before, after, strict=same)]
