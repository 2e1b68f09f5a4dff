"""The arithmetic of UPGD over many tensors: running utilities, their divisor, and the gate of every weight.

The formulas are those of :mod:`lightning_plasticity.functional.upgd`, in place and in blocks. On the CPU a block is a
piece of one tensor that fits into the cache, elsewhere (``foreach``) all tensors of a parameter group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.upgd import utility_norm
from lightning_plasticity.optim.noise import NoiseSource

Scaling = Literal["global", "local", "abs", "none"]
Correction = Literal["paper", "reference"]

_BLOCK = 1 << 18  # entries: four float32 blocks of this size fit into the cache
_SHORTEST = 16  # shorter draws on the CPU take another path through the generator


@dataclass(frozen=True)
class Perturbation:
    """How utilities become a gate, and how strong the noise is.

    Args:
        noise_std: Standard deviation of the noise, on the scale of the gradient; 0 draws none.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        scaling: What a utility is divided by: the largest of all weights (``"global"``), the norm over the incoming
            weights of the same unit (``"local"``), or the largest absolute value of all weights (``"abs"``).
            ``"none"`` leaves utilities out: everything passes with noise, as in perturbed gradient descent.
        correction: ``"paper"`` corrects both the utility and its divisor for the start of the running average;
            ``"reference"`` only the utility, as the published code does: then for about ``1 / (1 - decay_rate)`` steps
            the gate is nearly 0 or 1. Without effect on ``"local"``, apart from convolutions (see ``utility_norm``).
        protecting: Whether the gate also holds back the gradient, or only the noise.
        gate_scale: Factor of the gate: 1 gives a weight of no utility half a step, 2 a whole one.

    Raises:
        InvalidArgumentError: If a value is outside its range.

    Example:
        >>> Perturbation(noise_std=0.01).scaling
        'global'
    """

    noise_std: float = 1e-3
    decay_rate: float = 0.999
    scaling: Scaling = "global"
    correction: Correction = "paper"
    protecting: bool = True
    gate_scale: float = 1.0

    def __post_init__(self) -> None:
        check("noise_std", self.noise_std, 0 <= self.noise_std < math.inf, "a number of at least 0")
        check("decay_rate", self.decay_rate, 0 <= self.decay_rate < 1, "a number in [0, 1)")
        check("scaling", self.scaling, self.scaling in get_args(Scaling), "'global', 'local', 'abs' or 'none'")
        check("correction", self.correction, self.correction in get_args(Correction), "'paper' or 'reference'")
        check("gate_scale", self.gate_scale, 0 < self.gate_scale < math.inf, "a positive number")


def check(name: str, value: object, valid: bool, expected: str) -> None:
    """Raise the refusal of an argument unless ``valid``.

    Args:
        name: Name of the argument.
        value: The value that was passed.
        valid: Whether it is acceptable.
        expected: What would be.

    Raises:
        InvalidArgumentError: If ``valid`` is False.
    """
    if not valid:
        raise InvalidArgumentError(f"`{name}` is {value!r}", expected, f"Pass another `{name}`")


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


def observe(block: Block) -> None:
    """Add the utilities of this step to the running ones; those that are not finite then start afresh at 0."""
    if block.settings.scaling == "none":
        return
    weights, slopes = block.precise("weight"), block.precise("gradient")
    if "curvature" in block.tensors:
        bends = torch._foreach_mul(block.precise("curvature"), weights)
        torch._foreach_mul_(bends, -0.5)
        torch._foreach_add_(bends, slopes)
        slopes = list(bends)
    torch._foreach_mul_(block["utility"], block.settings.decay_rate)
    torch._foreach_addcmul_(block["utility"], slopes, weights, value=block.settings.decay_rate - 1)
    for utility in block["utility"]:
        torch.nan_to_num_(utility, nan=0.0, posinf=0.0, neginf=0.0)


def observed(blocks: Iterable[Block]) -> Iterator[Block]:
    """Observe the gated blocks one by one.

    Args:
        blocks: Blocks of one step.

    Yields:
        The gated ones, each while it is still in the cache.
    """
    for block in blocks:
        if block.gated:
            observe(block)
            yield block


def divisors(blocks: Iterable[Block]) -> dict[tuple[Scaling, Correction], Tensor]:
    """Return the largest running utility over all blocks, for each way of scaling that asks for it.

    Args:
        blocks: The gated blocks, after :func:`observe`.

    Returns:
        A positive scalar per pair of scaling and correction, on the device of the first block that asks for it.
    """
    largest: dict[tuple[Scaling, Correction], list[Tensor]] = {}
    for block in blocks:
        settings = block.settings
        if not block.gated or settings.scaling in ("local", "none"):
            continue
        tops = largest.setdefault((settings.scaling, settings.correction), [])
        for utility, corrected in zip(block["utility"], block.corrections, strict=True):
            top = torch.linalg.vector_norm(utility, math.inf) if settings.scaling == "abs" else utility.amax()
            tops.append(top / corrected if settings.correction == "paper" else top)
    return {key: _positive_maximum(tops) for key, tops in largest.items()}


def _positive_maximum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([v.to(values[0]) for v in values]).amax().clamp_min(torch.finfo(values[0].dtype).tiny)


def gates(block: Block, divisors: dict[tuple[Scaling, Correction], Tensor]) -> list[Tensor]:
    """Return the gate ``gate_scale * (1 - S)`` of every weight of a block, new tensors in ``(0, gate_scale)``."""
    settings = block.settings
    if settings.scaling == "none":
        return [torch.full_like(utility, settings.gate_scale) for utility in block["utility"]]
    if settings.scaling == "local":
        ratios = torch._foreach_div(block["utility"], [-1 * value for value in block.corrections])
        for ratio in ratios:
            ratio.div_(utility_norm(ratio, last_axis=settings.correction == "reference"))
    else:
        top = divisors[settings.scaling, settings.correction].to(block["utility"][0])
        ratios = torch._foreach_mul(block["utility"], [_slope(top, value) for value in block.corrections])
    torch._foreach_sigmoid_(ratios)
    if settings.gate_scale != 1:
        torch._foreach_mul_(ratios, settings.gate_scale)
    return list(ratios)


def _slope(top: Tensor, correction: float | Tensor) -> Tensor:
    """Return ``-1 / (top * correction)``, finite; negative because ``1 - S(u) = S(-u)``."""
    return (-1.0 / (top * correction)).clamp_min(-torch.finfo(top.dtype).max)


def through_gate(block: Block, descent: list[Tensor], gates: list[Tensor], noise: NoiseSource) -> list[Tensor]:
    """Return the direction of descent with noise, as the gates let it through.

    Args:
        block: The block.
        descent: What would be descended along without us; left as it is.
        gates: The gates; used up.
        noise: Source of the noise.

    Returns:
        The direction, one tensor per tensor of the block.
    """
    std, protecting = block.settings.noise_std, block.settings.protecting
    if std == 0:
        if not protecting:
            return descent
        torch._foreach_mul_(gates, descent)
        return gates
    perturbed = [noise.draw(gate, std) for gate in gates]
    if protecting:
        torch._foreach_add_(perturbed, descent)
        torch._foreach_mul_(perturbed, gates)
    else:
        torch._foreach_mul_(perturbed, gates)
        torch._foreach_add_(perturbed, descent)
    return perturbed
