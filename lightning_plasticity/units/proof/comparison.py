"""What counts as a change of an output or of an activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest change of an output, relative to its size; NaN where ``after`` alone is not finite.

    Args:
        before: The output tensors of one run.
        after: Those of another.

    Returns:
        A number of at least 0; infinite if the number of tensors, a shape or an integer differs.
    """
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    largest = 0.0
    for one, other in zip(map(as_real, before), map(as_real, after), strict=True):
        if not one.is_floating_point():
            largest = max(largest, 0.0 if torch.equal(one, other) else float("inf"))
            continue
        finite = one.isfinite()
        if not other[finite].isfinite().all():
            return float("nan")
        change, size = (other - one)[finite].abs(), one[finite].abs()
        if change.any():
            largest = max(largest, float(change.max() / size.max()))
    return largest


def as_real(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs of real ones, all others as they are."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def moved_units(before: Sequence[Tensor], after: Sequence[Tensor], tolerance: float) -> Tensor:
    """Return which units changed in any call.

    Args:
        before: What the tap showed in every call, ``[N, U, K]``; at least one call.
        after: The same of another run.
        tolerance: The relative change that counts as none.

    Returns:
        One bool per unit, ``[U]``; all of them moved if the calls or the samples are others, as those that a router
        sends to an expert.
    """
    if [seen.shape for seen in before] != [seen.shape for seen in after]:
        return torch.ones(before[0].shape[1], dtype=torch.bool, device="cpu")
    changes = [
        ((other - one).abs() > tolerance * one.abs().max()).any(dim=2).any(dim=0).cpu()
        for one, other in zip(before, after, strict=True)
    ]
    return torch.stack(changes).any(dim=0)


def is_one_number(seen: Tensor, tolerance: float) -> bool:
    """Return whether all of several entries of ``seen`` are equal; False for a single one, of which nothing follows."""
    return seen.numel() > 1 and bool((seen - seen.flatten()[0]).abs().max() <= tolerance * seen.abs().max())
