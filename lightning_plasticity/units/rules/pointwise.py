"""Element-wise operations: the labels of the operands meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.meeting import PRODUCT, Manner
from lightning_plasticity.units.rules.call import Call, tensors_in
from lightning_plasticity.units.rules.registry import Labelling, rule, rule_for_tag
from lightning_plasticity.units.slot import SlotKind

if TYPE_CHECKING:
    from lightning_plasticity.units.execution import Execution

_SUMS = {"add", "sub", "rsub"}
_ADDING = _SUMS | set(
    "lerp maximum minimum fmax fmin logaddexp logaddexp2 atan2 hypot where masked_fill clamp clamp_min clamp_max "
    "addcmul addcdiv".split()
)
"""Operations that leave one operand where the other is zero."""
_NORMALISING = {"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv"}


def aligned(labels: Tensor | None, ndim: int) -> Tensor | None:
    """Return labels with leading dimensions of size 1 added, as broadcasting does."""
    return None if labels is None else labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


@rule_for_tag("pointwise")
@rule(
    "masked_fill where dropout native_dropout prelu _prelu_kernel _to_copy clone isnan nan_to_num bernoulli.p "
    "binary_cross_entropy_with_logits hardswish hardsigmoid"
)
def pointwise(run: Execution, call: Call) -> Labelling:
    """Combine the operands element by element; a parameter among them is a bias if it is added, else carried."""
    kind: SlotKind = "bias" if call.name in _SUMS else "carried"
    manner = Manner(call.name in _ADDING, call.name in _NORMALISING)
    operands = tensors_in((*call.args, *(v for k, v in call.kwargs.items() if k != "out")))
    ndim = max(t.ndim for t in operands)
    labels: Tensor | None = None
    for t in sorted(operands, key=lambda t: t.dtype is torch.bool):  # a mask chooses; it is not what remains
        labels = run.meet(labels, aligned(run.of(t, kind), ndim), PRODUCT if t.dtype is torch.bool else manner)
    return [fold(labels, t) for t in call.outs]


def fold(labels: Tensor | None, out: Tensor) -> Tensor | None:
    """Return ``labels`` for a result that may have fewer dimensions because of a reduction over everything."""
    return labels if labels is None or labels.ndim == out.ndim else labels.reshape(labels.shape[-out.ndim :])


@rule("glu")
def glu(run: Execution, call: Call) -> Labelling:
    """Multiply one half of the features with a gate made of the other half."""
    x = call.args[0]
    labels = run.of(x)
    if labels is None:
        return None
    dim = call["dim"] % x.ndim
    if labels.shape[dim] == 1:
        return labels
    first, second = labels.chunk(2, dim)
    return run.meet(first, second)


@rule("copy")
def copy(run: Execution, call: Call) -> Labelling:
    """Overwrite: what was there before does not matter."""
    return aligned(run.of(call["src"]), call.outs[0].ndim)


@rule("fill zero")
def fill(run: Execution, call: Call) -> Labelling:
    """Overwrite with a number."""
    value = call.bound.get("value")
    return aligned(run.of(value), call.outs[0].ndim) if isinstance(value, Tensor) else None
