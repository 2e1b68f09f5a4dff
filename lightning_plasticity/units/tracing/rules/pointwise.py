"""Element-wise operations: the labels of the operands meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.meeting import PRODUCT, Manner
from lightning_plasticity.units.tracing.rules.call import Call, tensors_in
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule, rule_for_tag

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

_SUMS = {"add", "sub", "rsub"}
_ADDING = _SUMS | {
    "lerp",
    "where",
    "masked_fill",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "clamp",
    "clamp_min",
    "clamp_max",
}
_ADDING |= {"addcmul", "addcdiv", "logaddexp", "logaddexp2", "atan2", "hypot"}
"""Operations that leave one operand where the other is zero."""
_NORMALISING = {"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv"}


def aligned(labels: Tensor | None, ndim: int) -> Tensor | None:
    """Return labels with leading dimensions of size 1 added, as broadcasting does."""
    return None if labels is None else labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


def with_parameters(run: Execution, labels: Tensor, own: Tensor, manner: Manner) -> Tensor | None:
    """Return ``labels`` after each met the labels of several parameters, which lie along a further dimension."""
    met = run.meet(labels[..., None], own, manner)
    if met is not None and met.stride(-1) == 0:  # as a rule: all of them have joined
        return met[..., 0]
    result: Tensor | None = None
    for each in () if met is None else met.unbind(-1):
        result = run.meet(result, each, manner)
    return result


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
    if labels is not None and (_leaves_zero(call, operands) or _adds_constant(run, call, operands)):
        labels = run.labels.shift(labels)
    return [fold(labels, t) for t in call.outs]


def _leaves_zero(call: Call, operands: list[Tensor]) -> bool:
    """Return whether a function of one tensor is not zero at zero."""
    random = torch.Tag.nondeterministic_seeded in getattr(call.func, "tags", ())
    if len(operands) != 1 or random or not operands[0].is_floating_point() or call.kwargs.get("out") is not None:
        return False
    zero = torch.zeros([1] * operands[0].ndim, dtype=operands[0].dtype)
    value = call.func(*(zero if a is operands[0] else a for a in call.args), **call.kwargs)
    return isinstance(value, Tensor) and bool(value.any())


def _adds_constant(run: Execution, call: Call, operands: list[Tensor]) -> bool:
    return call.name in _ADDING and any(
        t.dtype is not torch.bool and not run.is_weight(t) and not run.is_data(t) for t in operands
    )


def fold(labels: Tensor | None, out: Tensor) -> Tensor | None:
    """Return ``labels`` for a result that may have fewer dimensions because of a reduction over everything."""
    return labels if labels is None or labels.ndim == out.ndim else labels.reshape(labels.shape[-out.ndim :])


@rule("glu")
def glu(run: Execution, call: Call) -> Labelling:
    """Multiply one half of the features with a gate made of the other half: its sigmoid, which is not zero at zero."""
    x = call.args[0]
    labels = run.of(x)
    if labels is None:
        return None
    dim = call["dim"] % x.ndim
    if labels.shape[dim] == 1:
        return labels
    first, second = labels.chunk(2, dim)
    return run.meet(first, run.labels.shift(second))


@rule("copy")
def copy(run: Execution, call: Call) -> Labelling:
    """Overwrite: what was there before does not matter."""
    return aligned(run.of(call["src"]), call.outs[0].ndim)


@rule("fill zero")
def fill(run: Execution, call: Call) -> Labelling:
    """Overwrite with a number."""
    value = call.bound.get("value")
    return aligned(run.of(value), call.outs[0].ndim) if isinstance(value, Tensor) else None
