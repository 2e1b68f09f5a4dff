"""Parameters of one optimizer step, cut or joined into the blocks in which they are treated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_plasticity.optim.settings import Perturbation

_BLOCK = 1 << 19  # entries; smaller blocks stay in a nearer cache, but the calls per block cost more than that saves
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


Piece = tuple[Treated, dict[str, Tensor]]  # a parameter, and its tensors or pieces of them


@dataclass(frozen=True)
class Block:
    """Lists of tensors that are treated in one sweep: of equal device, dtype and parameter group.

    ``cached`` says that they lie on the CPU, are contiguous, and are together small enough for the cache.
    """

    tensors: dict[str, list[Tensor]]
    settings: Perturbation
    gated: bool
    corrections: list[Any]
    steps: list[Tensor | int]
    group: dict[str, Any]
    cached: bool = False

    @classmethod
    def join(cls, members: Sequence[Piece], *, cached: bool = False) -> Block:
        """Return a block of parameters, or of pieces of parameters, that have all but their tensors in common."""
        tensors = {name: [part[name] for _, part in members] for name in members[0][1]}
        corrections, steps = [one.correction for one, _ in members], [one.step for one, _ in members]
        first = members[0][0]
        return cls(tensors, first.settings, first.gated, corrections, steps, first.group, cached)

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
        foreach: Join all tensors of a group. Otherwise large ones are cut, and small neighbours joined, so that what is
            read by one operation is still in the cache at the next.

    Yields:
        The blocks; if not ``foreach``, in the order of the parameters.
    """
    if foreach:
        joined: dict[tuple[Any, ...], list[Piece]] = {}
        for one in treated:
            joined.setdefault(_kind(one), []).append((one, one.tensors))
        yield from map(Block.join, joined.values())
        return
    for (cached, _), neighbours in groupby(treated, lambda one: (_is_divisible(one), _kind(one))):
        if cached:
            yield from _packed(piece for one in neighbours for piece in _pieces(one))
        else:
            yield from (Block.join([(one, one.tensors)]) for one in neighbours)


def _kind(one: Treated) -> tuple[Any, ...]:
    """Return what the tensors of a block have in common."""
    weight = one.tensors["weight"]
    return (id(one.group), one.settings, one.gated, weight.device, weight.dtype, tuple(one.tensors))


def _is_divisible(one: Treated) -> bool:
    """Return whether a parameter can be cut, and whether that helps."""
    weight, needs_all = one.tensors["weight"], one.gated and one.settings.scaling == "local"
    return weight.is_cpu and not needs_all and all(t.is_contiguous() for t in one.tensors.values())


def _packed(pieces: Iterable[Piece]) -> Iterator[Block]:
    """Yield blocks of neighbours that fit into the cache together."""
    waiting: list[Piece] = []
    entries = 0
    for piece in pieces:
        size = piece[1]["weight"].numel()
        if waiting and entries + size > _BLOCK:
            yield Block.join(waiting, cached=True)
            waiting, entries = [], 0
        waiting.append(piece)
        entries += size
    yield Block.join(waiting, cached=True)


def _pieces(one: Treated) -> Iterator[Piece]:
    """Yield one parameter, or its pieces if it is large."""
    entries = one.tensors["weight"].numel()
    if entries <= _BLOCK:
        yield one, one.tensors
        return
    full, rest = divmod(entries, _BLOCK)
    sizes = [_BLOCK] * full + ([rest] if rest >= _SHORTEST else [])
    sizes[-1] += rest if rest < _SHORTEST else 0
    flat = {name: torch.split(tensor.view(-1), sizes) for name, tensor in one.tensors.items()}
    for i in range(len(sizes)):
        yield one, {name: pieces[i] for name, pieces in flat.items()}


class Workspace:
    """Memory for what is computed on the way through a block, used again for the next one.

    Memory fresh from the system has to be made and cleared page by page, which costs more than the arithmetic on it.
    """

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, Tensor] = {}

    def lend(self, block: Block) -> list[Tensor]:
        """Return contiguous tensors like the utilities of a block, of any content.

        Args:
            block: The block.

        Returns:
            One tensor per utility; if the block is cached, the next one will get the same memory.
        """
        utilities = block["utility"]
        if not block.cached:
            return [torch.empty(u.shape, dtype=u.dtype, device=u.device) for u in utilities]
        dtype, sizes = utilities[0].dtype, [utility.numel() for utility in utilities]
        memory = self._memory.get(dtype)
        if memory is None or memory.numel() < sum(sizes):
            memory = self._memory[dtype] = torch.empty(sum(sizes), dtype=dtype)
        parts = torch.split(memory[: sum(sizes)], sizes)
        return [part.view(utility.shape) for part, utility in zip(parts, utilities, strict=True)]
