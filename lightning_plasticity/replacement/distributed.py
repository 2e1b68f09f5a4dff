"""Let processes agree: on what they remember of their units, and on the source of randomness."""

from __future__ import annotations

import torch
from torch import distributed

from lightning_plasticity.replacement.memory import Memory


def processes() -> int:
    """Return the number of processes that train together; 1 outside of a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def average(memory: Memory) -> None:
    """Replace every number of the memory by its mean over all processes, in one reduction; no-op on a single one.

    Utilities are linear in means over samples, so local traces may differ between decisions: the mean of the traces is
    the trace of the means. It is that of the union of the batches as long as the batches are of equal size.

    Args:
        memory: The memory to average, in place; equal in shape on all processes.
    """
    parts = list(memory.flat.values())
    if processes() == 1 or not parts:
        return
    flat = torch.cat([part.to(torch.float64) for part in parts])
    distributed.all_reduce(flat)
    flat /= processes()
    for part, mean in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
        part.copy_(mean if part.is_floating_point() else mean.round())


def agree(seed: int, device: torch.device) -> int:
    """Return the seed of the first process.

    Args:
        seed: This process's own.
        device: Device on which the processes exchange tensors.
    """
    if processes() == 1:
        return seed
    number = torch.tensor(seed % 2**63, dtype=torch.int64, device=device)  # a seed may be unsigned
    distributed.broadcast(number, src=0)
    return int(number)
