"""Element-wise operations: the labels of the operands meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.labels import foreign
from lightning_plasticity.units.tracing.pairs import Manner
from lightning_plasticity.units.tracing.rules.call import Call, operands_in
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule, rule_for_tag
from lightning_plasticity.units.tracing.rules.vanishing import experiment

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

_SUMS = {"add", "sub", "rsub"}
_NORMALISING = {"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv"}


def aligned(labels: Tensor | None, ndim: int) -> Tensor | None:
    """Return labels with leading dimensions of size 1 added, as broadcasting does."""
    return None if labels is None else labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


def with_parameters(run: Execution, labels: Tensor, own: Tensor, manner: Manner) -> Tensor | None:
    """Return ``labels`` after each met the labels of several parameters, which lie along a further dimension."""
    if own.shape[:-1] == labels.shape and run.labels.adopt(own, labels[..., None]):  # as a rule
        return labels
    result: Tensor | None = labels
    for each in own.unbind(-1):
        result = run.meet(result, each, manner)
    return result


def kind_in(call: Call) -> SlotKind:
    """Return what an operation makes of a parameter that it uses element by element."""
    return "bias" if call.name in _SUMS else "carried"


@rule_for_tag("pointwise")
@rule(
    "masked_fill where native_dropout _prelu_kernel _to_copy clone isnan nan_to_num hardswish hardsigmoid complex "
    "binary_cross_entropy_with_logits"
)
def pointwise(run: Execution, call: Call) -> Labelling:
    """Combine the operands element by element; a parameter among them is a bias if it is added, else carried."""
    kind = kind_in(call)
    operands = operands_in((*call.args, *(v for k, v in call.kwargs.items() if k != "out")))
    ndim = max(t.ndim for t in operands)
    each = [aligned(run.of(t, kind), ndim) for t in operands]
    if any(labels is not None and run.labels.may_vanish(labels).any() for labels in each):
        labels = _combined(run, call, operands, each)
    else:  # there is no unit that could be left or lost
        labels = _met(run, each, Manner(normalises=call.name in _NORMALISING))
    if not call.written:  # who updates a buffer reads it too
        run.updates.meet(operands, labels)
    return [fold(labels, t) for t in call.outs]


def _combined(run: Execution, call: Call, operands: list[Tensor], each: list[Tensor | None]) -> Tensor | None:
    """Let units meet what they are combined with: as factors, if the result vanishes with one of them, else in a sum.

    A factor with which the result does not vanish, such as a divisor, is taken for one that is open at zero. The masks
    of a sum (a maximum, a choice) are factors too, if nothing is left where all that they choose from is zero.

    Args:
        run: The state of the run.
        call: The operation.
        operands: What it combines.
        each: The labels of the operands, with as many dimensions as the result.

    Returns:
        The labels of the result.
    """
    trial, shift = experiment(run, call), run.labels.shift
    labelled = {i: labels for i, labels in enumerate(each) if labels is not None and labels.any()}
    product = Manner(normalises=call.name in _NORMALISING)
    closing = {i for i in labelled if trial.vanishes(i)}
    if closing:
        return _met(run, [labels if i in closing else shift(labels) for i, labels in labelled.items()], product)
    masks = {i for i in labelled if operands[i].dtype is torch.bool}
    if not trial.vanishes(*labelled.keys() - masks):
        masks = set()
    summands = {i: labels for i, labels in labelled.items() if i not in masks}
    labels = _met(run, summands.values(), replace(product, adds=True))
    if labels is not None:
        own = [i for i, summand in summands.items() if summand.numel() > 1 or labels.numel() == 1]
        labels = labels if trial.vanishes(*own) else shift(labels)  # a constant or one number for all units is left
    return _met(run, [labels, *(shift(labelled[i]) for i in masks)], product)


def _met(run: Execution, each: Iterable[Tensor | None], manner: Manner) -> Tensor | None:
    """Return what comes out where all of ``each`` meet."""
    labels: Tensor | None = None
    for other in each:
        labels = run.meet(labels, other, manner)
    return labels


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


@rule("log_sigmoid_forward")
def log_sigmoid(run: Execution, call: Call) -> Labelling:
    """Keep the labels; it is not zero at zero. The second result is for the backward pass."""
    labels = run.of(call.args[0])
    return [None if labels is None else run.labels.shift(labels), foreign(call.outs[1].ndim)]


@rule("copy")
def copy(run: Execution, call: Call) -> Labelling:
    """Overwrite: what was there before does not matter."""
    return aligned(run.of(call["src"]), call.outs[0].ndim)


@rule("fill zero")
def fill(run: Execution, call: Call) -> Labelling:
    """Overwrite with a number."""
    value = call.bound.get("value")
    return aligned(run.of(value), call.outs[0].ndim) if isinstance(value, Tensor) else None
