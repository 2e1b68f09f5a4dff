"""The worth of units and the sums it is made of, as functions of tensors.

Letters: ``N`` samples, ``F`` features, ``U`` units, ``K`` features per unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

CACHED = 1 << 19
"""Entries that a temporary may have to stay in a core's cache, about; a larger one costs memory and a trip to it."""

_PRECISE = {torch.float32, torch.float64}


def sum_over_samples(values: Tensor, dim: int) -> Tensor:
    """Return the sum over all dimensions but ``dim``, ``[F]``, in at least single precision.

    Args:
        values: Any shape with ``F`` features along ``dim``.
        dim: The feature dimension.

    Example:
        >>> sum_over_samples(torch.ones(2, 3, 4, 4), dim=1)
        tensor([32., 32., 32.])
    """
    dim %= values.ndim
    others = [axis for axis in range(values.ndim) if axis != dim]
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.sum(others, dtype=dtype) if others else values.to(dtype)


def absolute_sum(values: Tensor, dim: int, out: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
    """Return the sum of absolute values over all dimensions but ``dim``, ``[F]``, at least in float32.

    On the host it works through the tensor in pieces that fit into the cache, so that the values are read once and no
    temporary of their size is needed.

    Args:
        values: Any shape with ``F`` features along ``dim``: weights or activations.
        dim: The feature dimension.
        out: Write into this tensor ``[F]``, in its data type, instead of a new one.
        scratch: A flat tensor of the type of ``values`` to work in, for who calls often with more than ``CACHED``
            entries: memory that is asked for anew at every call comes cold.

    Returns:
        The sums; 0 where there is nothing to add.

    Example:
        >>> absolute_sum(torch.tensor([[1.0, -2.0], [3.0, -4.0]]), dim=1)
        tensor([4., 6.])
    """
    ndim, small = values.ndim, values.numel() <= CACHED
    dim %= ndim
    if out is not None and ndim == 2 and small and values.is_cpu:  # a short way for the call of every step
        return torch.sum(values.abs(), 1 - dim, out=out)
    others = [axis for axis in range(ndim) if axis != dim]
    dtype = out.dtype if out is not None else values.dtype if values.dtype in _PRECISE else torch.float32
    if not values.is_cpu:
        sums: Tensor = torch.linalg.vector_norm(values, 1, dim=others, dtype=dtype, out=out)
        return sums
    if not others:
        return torch.abs(values.to(dtype), out=out)
    if small:
        return torch.sum(values.abs(), others, dtype=dtype, out=out)
    if out is None:
        out = values.new_empty(values.shape[dim], dtype=dtype)
    if scratch is None or scratch.dtype != values.dtype or scratch.numel() < values[0].numel():
        scratch = values.new_empty(max(CACHED, values[0].numel()))
    return _absolute_sum_in_pieces(values, dim, others, out, scratch)


def _absolute_sum_in_pieces(values: Tensor, dim: int, others: list[int], out: Tensor, scratch: Tensor) -> Tensor:
    """Write the absolute sums to ``out``, ``[F]``; pieces of some rows share one temporary, which stays hot."""
    rows = max(1, scratch.numel() * values.shape[0] // values.numel())
    scratch = scratch[: rows * values[0].numel()].view(rows, *values.shape[1:])
    start = 0
    for piece in torch.split(values, rows):
        magnitudes = torch.abs(piece, out=scratch if len(piece) == rows else scratch[: len(piece)])
        if dim == 0:
            torch.sum(magnitudes, others, dtype=out.dtype, out=out[start : start + rows])
        elif start == 0:
            torch.sum(magnitudes, others, dtype=out.dtype, out=out)
        else:
            out += magnitudes.sum(others, dtype=out.dtype)
        start += rows
    return out


def contribution(activation: Tensor, outgoing: Tensor) -> Tensor:
    r"""Return the contribution of every unit, the mean over its features of :math:`E|h| \cdot \overline{|w|}`, ``[U]``.

    After a flatten a channel has one feature per position; the mean is one of products, not a product of means.

    Args:
        activation: Mean absolute activation, ``[U, K]``.
        outgoing: Mean absolute outgoing weight, ``[U, K]``.

    Returns:
        The contributions; at least 0, in units of activation times weight.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024), equation 1; a mean over the
        outgoing weights instead of a sum, which leaves the order within a layer the same.

    Example:
        >>> contribution(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.5000, 1.0000])
    """
    if activation.shape[1] == outgoing.shape[1] == 1:  # a sum over nothing still costs a kernel
        return (activation * outgoing).squeeze(1)
    return (activation * outgoing).mean(1)


def relative_to_mean(magnitudes: Tensor) -> Tensor:
    """Return magnitudes relative to their mean, ``[U]``.

    Args:
        magnitudes: Non-negative magnitudes of the units of a layer, ``[U]``.

    Returns:
        The shares, with mean 1; zeros for a layer that is all zero. A magnitude that is not finite stays so and does
        not touch the others.

    References:
        Sokar et al., `The dormant neuron phenomenon in deep reinforcement learning` (ICML 2023), equation 1; a silent
        layer, for which it is 0 / 0, counts as all zero here.

    Example:
        >>> relative_to_mean(torch.tensor([0.0, 1.0, 2.0]))
        tensor([0., 1., 2.])
        >>> relative_to_mean(torch.zeros(2))
        tensor([0., 0.])
    """
    finite = magnitudes.isfinite()
    mean = magnitudes.where(finite, 0.0).sum() / finite.sum().clamp_min(1)
    return magnitudes / mean.where(mean > 0, 1.0)
