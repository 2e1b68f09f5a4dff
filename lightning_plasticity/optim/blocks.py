"""Parameters of one optimizer step, cut or joined into the blocks in which they are treated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_plasticity.optim.settings import Perturbation

_BLOCK = (
    1 << 19
)  # entries; smaller blocks stay in a nearer cache, but the calls per block then cost more than that saves
_SHORTEST = 16  # shorter draws on the CPU take another path through the generator


@dataclass(frozen=True)
class Treated:
    """One parameter in one step: its tensors, all of one shape, and how they are treated.

    Args:
        tensors: ``weight``, ``gradient``, ``utility`` and optionally ``curvature``; an optimizer adds its own.
        settings: How the gate is made.
        gated: Whether there is a gate; otherwise the parameter takes its plain step.
        correction: :func:`gathered` weight of the running utility.
        step: How many steps the parameter has taken, this one included.
        group: The parameter group.
    """

    tensors: dict[str, Tensor]
    settings: Perturbation
    gated: bool
    correction: float | Tensor
    step: Tensor | int
    group: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Lists of tensors that are treated in one sweep: of equal device, dtype and parameter group."""

    tensors: dict[str, list[Tensor]]
    settings: Perturbation
    gated: bool
    corrections: list[Any]
    steps: list[Tensor | int]
    group: dict[str, Any]

    @classmethod
    def join(cls, members: Sequence[Treated], tensors: dict[str, list[Tensor]]) -> Block:
        """Return a block of ``tensors``, which belong to ``members`` (or are pieces of them)."""
        corrections, steps = [one.correction for one in members], [one.step for one in members]
        return cls(tensors, members[0].settings, members[0].gated, corrections, steps, members[0].group)

    def __getitem__(self, name: str) -> list[Tensor]:
        return self.tensors[name]

    def precise(self, name: str) -> list[Tensor]:
        """Return the tensors in at least single precision: themselves, or copies of half-precision ones."""
        return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in self.tensors[name]]


def precise_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which the statistics of ``tensor`` are kept: its own, at least single precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def gathered(decay_rate: float, step: Tensor | int, *, capturable: bool = False) -> float | Tensor:
    """Return ``1 - decay_rate ** step``, the weight that a running average started at zero has gathered.

    Args:
        decay_rate: Decay, in ``[0, 1)``.
        step: Number of updates so far, a scalar of at least 1.
        capturable: Leave the result on the device of ``step`` instead of reading it.

    Returns:
        A number in ``(0, 1]``.
    """
    if not capturable or not isinstance(step, Tensor):
        return float(1.0 - decay_rate ** float(step))
    return -torch.expm1(step * (math.log(decay_rate) if decay_rate > 0 else -math.inf))


def blocks(treated: Iterable[Treated], *, foreach: bool) -> Iterator[Block]:
    """Cut the parameters into blocks.

    Args:
        treated: The parameters of the step.
        foreach: Join the tensors of a group instead of cutting each one.

    Yields:
        The blocks, in the order of the parameters.
    """
    if not foreach:
        for one in treated:
            yield from _pieces(one)
        return
    joined: dict[tuple[Any, ...], list[Treated]] = {}
    for one in treated:
        weight = one.tensors["weight"]
        key = (id(one.group), one.settings, one.gated, weight.device, weight.dtype, tuple(one.tensors))
        joined.setdefault(key, []).append(one)
    for members in joined.values():
        yield Block.join(members, {name: [one.tensors[name] for one in members] for name in members[0].tensors})


def _pieces(one: Treated) -> Iterator[Block]:
    """Yield one parameter in blocks that fit into the cache, where cutting is possible and helps."""
    weight = one.tensors["weight"]
    whole = (
        (one.gated and one.settings.scaling == "local")
        or not weight.is_cpu
        or not all(t.is_contiguous() for t in one.tensors.values())
    )
    if whole or weight.numel() <= _BLOCK:
        yield Block.join([one], {name: [tensor] for name, tensor in one.tensors.items()})
        return
    full, rest = divmod(weight.numel(), _BLOCK)
    sizes = [_BLOCK] * full + ([rest] if rest >= _SHORTEST else [])
    sizes[-1] += rest if rest < _SHORTEST else 0
    flat = {name: torch.split(tensor.view(-1), sizes) for name, tensor in one.tensors.items()}
    for i in range(len(sizes)):
        yield Block.join([one], {name: [pieces[i]] for name, pieces in flat.items()})
