"""Swap all numbers of a model for a copy that may be changed at will."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_plasticity.units.tensors import to_generic_position


@contextmanager
def data_swapped(
    model: nn.Module, weights: torch.dtype, others: torch.dtype, generator: torch.Generator
) -> Generator[None, None, None]:
    """Give every parameter and buffer a copy of its data, in generic position, during the block.

    Args:
        model: The model.
        weights: The precision of matrices and kernels.
        others: The precision of vectors and buffers.
        generator: Draws by how much the numbers are moved.

    Yields:
        Nothing; the model computes with the copy.
    """
    stored = [(p, weights if p.ndim > 1 else others) for p in model.parameters()]  # biases must have the inputs' dtype
    stored += [(buffer, others) for buffer in model.buffers()]  # type: ignore[misc]
    originals = [(tensor, tensor.data) for tensor, _ in stored]
    storages: dict[int, Tensor] = {}
    try:
        for tensor, dtype in stored:
            tensor.data = _copy(tensor.data, dtype, storages)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                to_generic_position(parameter.data, generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                _move_statistics(module, generator)
        yield
    finally:
        for tensor, data in originals:
            tensor.data = data


def _copy(data: Tensor, dtype: torch.dtype, storages: dict[int, Tensor]) -> Tensor:
    """Return a copy with the same strides; tensors that share storage go on sharing it."""
    key = data.untyped_storage().data_ptr()
    if key not in storages:
        whole = torch.empty(0, dtype=data.dtype, device=data.device).set_(data.untyped_storage())
        numbers = dtype.to_complex() if data.is_complex() else dtype if data.is_floating_point() else data.dtype
        storages[key] = whole.to(numbers, copy=True)
    return storages[key].as_strided(data.shape, data.stride(), data.storage_offset())


def _move_statistics(norm: nn.modules.batchnorm._NormBase, generator: torch.Generator) -> None:
    """Make the running statistics of channels differ, as they do after training."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101 - a norm has both or none
    assert variance is not None  # noqa: S101
    noise = torch.randn((2, len(mean)), generator=generator, dtype=torch.float64, device="cpu").to(mean)
    mean.data.add_(0.1 * variance.sqrt() * noise[0])
    variance.data.mul_(1 + 0.1 * noise[1].abs())
