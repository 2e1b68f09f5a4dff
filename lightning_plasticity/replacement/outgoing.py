"""How strongly units are read: the mean absolute outgoing weights of all groups, written anew after every step.

This and the forward hooks are all that a step without a replacement costs. So what can be known beforehand is found out
once per group: for a small matrix on the host a step then takes two kernels and a look at its shape.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lightning_plasticity.functional.utility import CACHED
from lightning_plasticity.replacement.memory import Memory
from lightning_plasticity.replacement.utilities.magnitudes import outgoing_magnitude
from lightning_plasticity.units import Slot, UnitGroup


class OutgoingMagnitudes:
    """Writes the mean absolute outgoing weight of every feature of every unit into a field of the memory.

    Where readers see other features of a unit than are observed, all features of the unit get their common mean.

    Args:
        memory: The memory of all groups.
        name: Name of the field, one number per feature.
    """

    def __init__(self, memory: Memory, name: str) -> None:
        self._magnitudes = memory.flat[name]
        self._shares = torch.ones_like(self._magnitudes)  # turns the sums of all groups into means, in a single kernel
        sizes = [part[name].numel() for part in memory.parts]
        rows, shares = torch.split(self._magnitudes, sizes), torch.split(self._shares, sizes)
        scratch = _scratch([group.outgoing[0].tensor for group in memory.groups])
        self._readers = [
            _Reader(group, row, share, scratch) for group, row, share in zip(memory.groups, rows, shares, strict=True)
        ]

    def write(self, groups: Collection[int]) -> None:
        """Write the magnitudes of the weights as they are now.

        Args:
            groups: Positions of the groups to write.
        """
        for position in groups:
            reader = self._readers[position]
            weight = reader.parameters.get(reader.name)
            if weight is not None and weight.shape == reader.shape:
                torch.sum(torch.abs(weight, out=reader.scratch), reader.others, out=reader.sums)
            else:
                reader.write()
        if len(groups) == len(self._readers):
            self._magnitudes.mul_(self._shares)
        else:
            for position in groups:
                reader = self._readers[position]
                reader.sums.mul_(reader.share)


class _Reader:
    """How the absolute outgoing weights of one group are added up.

    Args:
        group: The group.
        sums: Receives the sums, ``[U * K]``.
        share: Receives one over the number of entries that they are of, ``[U * K]``.
        scratch: Flat memory to work in.

    Attributes:
        shape: Shape of the matrix whose sums take no more than ``abs`` and ``sum``; None if it is not that simple.
        scratch: Memory of that shape.
        others: The dimension to add up.
    """

    __slots__ = ("_entries", "_group", "_memory", "name", "others", "parameters", "scratch", "shape", "share", "sums")

    def __init__(self, group: UnitGroup, sums: Tensor, share: Tensor, scratch: Tensor) -> None:
        self._group, self._memory, self._entries = group, scratch, 1
        self.sums, self.share = sums, share
        self.parameters, self.name = group.outgoing[0].module._parameters, group.outgoing[0].name
        self.shape: torch.Size | None = None
        self.others, self.scratch = 0, scratch

    def write(self) -> None:
        """Add the weights up, whatever they are, and note whether the next time can be short."""
        slot = self._group.outgoing[0]
        if len(self._group.outgoing) > 1 or slot.total_features != self.sums.numel():
            self.sums.view(self._group.size, -1).copy_(outgoing_magnitude(self._group))
            return
        slot.absolute_sums(self.sums, self._memory)
        if slot.entries_per_feature != self._entries:
            self._entries = slot.entries_per_feature
            self.share.fill_(1 / self._entries)
        self._look_for_a_short_way(slot)

    def _look_for_a_short_way(self, slot: Slot) -> None:
        weight, dim = slot.tensor, slot.whole_dim
        alike = weight.device == self._memory.device and weight.dtype == self._memory.dtype
        if dim is not None and alike and weight.ndim == 2 and weight.numel() <= self._memory.numel():
            self.shape, self.others = weight.shape, 1 - dim
            self.scratch = self._memory[: weight.numel()].view(weight.shape)


def _scratch(weights: list[Tensor]) -> Tensor:
    """Memory in which the largest of the weights is treated whole, or in pieces of at least a row."""
    sizes = [min(weight.numel(), max(CACHED, weight[0].numel())) for weight in weights if weight.is_cpu]
    return torch.empty(max(sizes, default=0), dtype=weights[0].dtype, device="cpu")
