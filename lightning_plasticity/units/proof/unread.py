"""Derivatives as if some entries of weights were zero, while the model computes what it always computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_plasticity.units.slot import Slot

Owned: TypeAlias = Sequence[tuple[Slot, Tensor]]
"""Entries of weights: those of some units of some slots."""

Zeroed: TypeAlias = tuple[Slot, Tensor, Tensor]
"""A slot, units of it, and the tensor in which their entries are zero: that of the slot, or one with the same shape."""


def passing_none(entries: Owned) -> AbstractContextManager[None]:
    """Let backward passes find zeros in the entries, wherever an operation has saved the weight."""
    zeroed = by_storage(entries)

    def unpack(saved: Tensor) -> Tensor:
        return with_zeros(saved, zeroed.get(storage_of(saved), ()))

    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack)


def by_storage(entries: Owned) -> dict[int, list[Zeroed]]:
    """Return the entries by where their tensors lie."""
    found: dict[int, list[Zeroed]] = {}
    for slot, units in entries:
        found.setdefault(storage_of(slot.tensor), []).append((slot, units, slot.tensor.data))
    return found


def with_zeros(saved: Tensor, zeroed: Sequence[Zeroed]) -> Tensor:
    """Return ``saved``, or a copy that lasts as long as the derivative of this operation takes.

    Args:
        saved: What an operation has saved.
        zeroed: What to set to zero; all in the memory that ``saved`` is a view of.
    """
    if not zeroed:
        return saved
    copy = saved.new_empty(0).set_(saved.untyped_storage()).clone()
    for slot, units, tensor in zeroed:
        slot.assign(units, 0.0, tensor=_like(tensor, copy))
    return _like(saved, copy)


def _like(tensor: Tensor, storage: Tensor) -> Tensor:
    """Return what lies in a copy of the storage of ``tensor`` where that lies."""
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def storage_of(tensor: Tensor) -> int:
    """Return where in memory a tensor and all its views lie."""
    return tensor.untyped_storage().data_ptr()
