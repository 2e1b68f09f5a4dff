"""Tensors with one entry per id, which grow together."""

from __future__ import annotations

import torch
from torch import Tensor


def blank(length: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """Return zeros that take no memory until :meth:`Growing.writable` gives them some."""
    return torch.zeros(1, dtype=dtype).expand(length)


class Growing:
    """An object whose attributes of type tensor have one entry per id, as long as there are fewer ids than entries."""

    def writable(self, name: str) -> Tensor:
        """Return the attribute ``name``, which may still be blank, with memory of its own."""
        written: Tensor = getattr(self, name).contiguous()
        setattr(self, name, written)
        return written

    def grow(self, length: int) -> None:
        """Append zeros to all attributes until they have ``length`` entries."""
        for name, entries in list(vars(self).items()):
            if isinstance(entries, Tensor):
                setattr(self, name, torch.cat([entries, entries.new_zeros(length - len(entries))]))
