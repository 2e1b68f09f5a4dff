"""The arithmetic of UPGD over many tensors: running utilities, their divisor, and the gate of every weight.

The formulas are those of :mod:`lightning_plasticity.functional.upgd`, in place and in blocks. On the CPU a block holds
what fits into the cache, elsewhere (``foreach``) all tensors of a parameter group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_plasticity.functional.upgd import utility_norm
from lightning_plasticity.optim.blocks import Block, Workspace
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.settings import Correction, Perturbation, Scaling

_SATURATED = 40.0  # where the sigmoid is 1 in double precision


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
    if not block.cached:  # of a cached one the extremes will tell
        _mend(block)


def _mend(block: Block) -> None:
    for utility in block["utility"]:
        torch.nan_to_num_(utility, nan=0.0, posinf=0.0, neginf=0.0)


def observed(blocks: Sequence[Block]) -> Iterator[Block]:
    """Observe the gated blocks one by one.

    Args:
        blocks: Blocks of one step.

    Yields:
        The gated ones, each while it is still in the cache; the first ones last, since they are needed next.
    """
    for block in reversed(blocks):
        if block.gated:
            observe(block)
            yield block


class Divisors:
    """The largest running utilities of one step, and what utilities have to be multiplied by before the sigmoid.

    Args:
        largest: A positive scalar per way of scaling and of correction.
    """

    def __init__(self, largest: dict[tuple[Scaling, Correction], Tensor]) -> None:
        self._largest = largest
        self._slopes: dict[tuple[Any, ...], Tensor] = {}

    def slopes(self, block: Block) -> list[Tensor]:
        """Return ``-1 / (largest * correction)`` per utility of a block, finite scalars; ``1 - S(u) = S(-u)``."""
        return [self._slope(block.settings, *pair) for pair in zip(block.corrections, block["utility"], strict=True)]

    def _slope(self, settings: Perturbation, correction: float | Tensor, like: Tensor) -> Tensor:
        number = id(correction) if isinstance(correction, Tensor) else correction
        key = (settings.scaling, settings.correction, number, like.device, like.dtype)
        if key not in self._slopes:
            top = self._largest[settings.scaling, settings.correction].to(like)
            self._slopes[key] = (-1.0 / (top * correction)).clamp_min(-torch.finfo(top.dtype).max)
        return self._slopes[key]


def divisors(blocks: Iterable[Block]) -> Divisors:
    """Return the largest running utilities over all blocks, for each way of scaling that asks for one.

    Args:
        blocks: The gated blocks, after :func:`observe`.

    Returns:
        The divisors of the step.
    """
    compared = (block for block in blocks if block.settings.scaling in ("global", "abs"))
    ends = [(block, [torch.aminmax(utility) for utility in block["utility"]]) for block in compared]
    unmended = (float(end) for block, pairs in ends if block.cached for pair in pairs for end in pair)
    if not all(map(math.isfinite, unmended)):
        for block, _ in ends:
            _mend(block)
        return divisors([block for block, _ in ends])
    tops: dict[tuple[Scaling, Correction], list[Tensor]] = {}
    for block, pairs in ends:
        settings = block.settings
        found = [torch.maximum(high, -low) if settings.scaling == "abs" else high for low, high in pairs]
        if settings.correction == "paper":
            found = _corrected(found, block.corrections)
        tops.setdefault((settings.scaling, settings.correction), []).extend(found)
    return Divisors({key: _positive_maximum(values) for key, values in tops.items()})


def _corrected(tops: list[Tensor], corrections: list[Any]) -> list[Tensor]:
    """Return quotients whose largest one is that of all; one quotient only where all divisors are one number."""
    if isinstance(corrections[0], float) and corrections.count(corrections[0]) == len(corrections):
        return [torch.stack(tops).amax() / corrections[0]]
    return list(torch._foreach_div(tops, corrections))


def _positive_maximum(values: Sequence[Tensor]) -> Tensor:
    first = values[0]
    same = [v if v.device == first.device and v.dtype == first.dtype else v.to(first) for v in values]
    return torch.stack(same).amax().clamp_min(torch.finfo(first.dtype).tiny)


def gates(block: Block, divisors: Divisors) -> list[Tensor]:
    """Return the gate ``gate_scale * (1 - S)`` of every weight of a block, new tensors in ``(0, gate_scale)``."""
    settings, utilities = block.settings, block["utility"]
    if settings.scaling == "none":
        return [torch.full_like(utility, settings.gate_scale) for utility in utilities]
    if settings.scaling == "local":
        ratios = torch._foreach_div(utilities, [-1 * value for value in block.corrections])
        for ratio in ratios:
            ratio.div_(utility_norm(ratio, last_axis=settings.correction == "reference"))
    else:
        ratios = torch._foreach_mul(utilities, divisors.slopes(block))
    torch._foreach_sigmoid_(ratios)
    if settings.gate_scale != 1:
        torch._foreach_mul_(ratios, settings.gate_scale)
    return list(ratios)


def _hold_back(tensors: list[Tensor], block: Block, divisors: Divisors) -> None:
    """Multiply tensors by the gates of a block, in place."""
    settings = block.settings
    if settings.scaling not in ("global", "abs") or not block.cached:
        torch._foreach_mul_(tensors, gates(block, divisors))
        return
    for tensor, utility, slope in zip(tensors, block["utility"], divisors.slopes(block), strict=True):
        # the derivative of softplus is the sigmoid: slope, sigmoid and product in one sweep
        torch.ops.aten.softplus_backward.grad_input(tensor, utility, float(slope), _SATURATED, grad_input=tensor)
    if settings.gate_scale != 1:
        torch._foreach_mul_(tensors, settings.gate_scale)


def through_gate(
    block: Block, descent: list[Tensor], divisors: Divisors, noise: NoiseSource, workspace: Workspace
) -> list[Tensor]:
    """Return the direction of descent with noise, as the gates let it through.

    Args:
        block: The block.
        descent: What would be descended along without us; left as it is.
        divisors: The divisors of the step.
        noise: Source of the noise.
        workspace: Memory for the direction.

    Returns:
        The direction, one tensor per tensor of the block; valid until the workspace is lent to the next one.
    """
    std, protecting = block.settings.noise_std, block.settings.protecting
    if std == 0 and not protecting:
        return descent
    direction = workspace.lend(block)
    if std == 0:
        torch._foreach_copy_(direction, descent)
    else:
        noise.fill(direction, std)
    if protecting and std > 0:
        torch._foreach_add_(direction, descent)
    _hold_back(direction, block, divisors)
    if not protecting:
        torch._foreach_add_(direction, descent)
    return direction
