"""The one place where this library writes into parameters, buffers and optimizer state.

Everything that changes a tensor in place goes through :func:`write`, so that what a tensor may be (plain, replicated,
one day sharded) is known in a single function. Values are assigned, never multiplied: a unit full of NaN recovers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import UnsupportedModelError


def write(tensor: Tensor, index: tuple[Tensor | slice, ...], values: Tensor | float) -> None:
    """Assign ``values`` to the entries of ``tensor`` at ``index``, in place and outside of autograd.

    Args:
        tensor: The tensor to change, or a view of it; it keeps its identity.
        index: One index tensor or slice per leading dimension, as in ``tensor[index]``.
        values: A number, or a tensor that broadcasts to ``tensor[index]``; cast to the dtype of ``tensor``.

    Raises:
        UnsupportedModelError: If the tensor is sharded (a ``DTensor``), where an indexed write would fail or, worse,
            silently do nothing.

    Example:
        >>> weight = torch.ones(2, 3)
        >>> write(weight, (slice(None), torch.tensor([1])), 0.0)
        >>> weight
        tensor([[1., 0., 1.],
                [1., 0., 1.]])
    """
    if is_sharded(tensor):
        raise UnsupportedModelError(
            "a sharded parameter (DTensor)",
            "parameters that are whole on every process",
            "Use strategy='ddp' or a single device; FSDP, tensor parallelism and DeepSpeed are not supported yet",
        )
    target = tensor.detach()
    if isinstance(values, Tensor):
        target[index] = values.detach().to(target.dtype)
    elif len(index) == 1 and isinstance(index[0], Tensor) and index[0].dtype == torch.int64:
        target.index_fill_(0, index[0].flatten(), values)  # the same in half the time
    else:
        target[index] = values


def is_sharded(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is a part of a tensor that several processes share (a ``DTensor``)."""
    return hasattr(tensor, "placements")  # its public mark; importing the class would load torch.distributed
