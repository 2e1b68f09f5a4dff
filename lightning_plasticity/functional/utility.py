"""The worth of units and the sums it is made of, as functions of tensors.

Letters: ``N`` samples, ``F`` features, ``U`` units, ``K`` features per unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 18  # entries that fit into a core's cache: larger temporaries cost memory and two trips to it


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


def absolute_mean(weight: Tensor, dim: int) -> Tensor:
    """Return the mean absolute entry over all dimensions but ``dim``, ``[F]``.

    Works through the tensor in pieces that fit into the cache, so that it reads the weights once and needs no
    temporary of their size.

    Args:
        weight: Any shape with ``F`` features along ``dim``.
        dim: The feature dimension.

    Returns:
        The means; not a number if there is nothing to average.

    Example:
        >>> absolute_mean(torch.tensor([[1.0, -2.0], [3.0, -4.0]]), dim=1)
        tensor([2., 3.])
    """
    dim %= weight.ndim
    others = [axis for axis in range(weight.ndim) if axis != dim]
    if not others:
        return weight.abs()
    if weight.numel() <= _CHUNK or weight.device.type != "cpu":
        return weight.abs().mean(others)
    if dim == 0:
        rows = max(1, _CHUNK // (weight.numel() // weight.shape[0]))
        return torch.cat([piece.abs().mean(others) for piece in torch.split(weight, rows)])
    rows = max(1, _CHUNK // (weight.numel() // weight.shape[0]))
    total = weight.new_zeros(weight.shape[dim])
    for piece in torch.split(weight, rows):
        total += piece.abs().sum(others)
    return total.div_(weight.numel() // weight.shape[dim])


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
    return (activation * outgoing).mean(1)
