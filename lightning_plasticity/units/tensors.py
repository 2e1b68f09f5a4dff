"""The tensors in what a model returns, and weights that hide nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Return the tensors of nested sequences, mappings and dataclasses; other objects (a cache) are no output.

    Args:
        value: What the model returned.

    Yields:
        The tensors, in the order in which they stand in the containers.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from tensors_in(getattr(value, entry.name))


def to_generic_position(value: Tensor, generator: torch.Generator) -> None:
    """Move weights slightly, and redraw those that are (nearly) zero, so that no zero hides a path."""
    fan = math.prod(value.shape[1:]) if value.ndim > 1 else 100
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64, device="cpu").to(value)
    size = value.square().mean().sqrt() if value.numel() else 0.0
    if size * math.sqrt(fan) < 1e-2:
        value.copy_((noise + 0.5 * noise.sign()) / math.sqrt(fan))
    else:
        value.add_(0.1 * size * noise)
