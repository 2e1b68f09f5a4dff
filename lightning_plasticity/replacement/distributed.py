"""Average what processes remember of their units."""

from __future__ import annotations

import torch
from torch import distributed

from lightning_plasticity.replacement.memory import Memory


def average(memory: Memory) -> None:
    """Replace every number of the memory by its mean over all processes, in one reduction; no-op on a single one.

    Utilities are linear in sums over samples, so local traces may differ between decisions: the mean of the traces is
    the trace of the means.

    Args:
        memory: The memory to average, in place; equal in shape on all processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    parts = list(memory.flat.values())
    if not parts:
        return
    flat = torch.cat([part.to(torch.float64) for part in parts])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for part, mean in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
        part.copy_(mean)
