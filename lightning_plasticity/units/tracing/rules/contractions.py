"""Contractions: where units are born (rows of a weight) and read (its columns).

Every contraction is written as an Einstein sum ``weight,activation->result`` with one letter per dimension. Letters
of the weight and the activation that the result lacks are contracted: they count columns. Letters of the weight and
the result count rows. Letters of all three are a batch of independent contractions. Letters that the weight lacks
are positions, at which the same weight is used again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.columns import agree
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, foreign
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.pointwise import aligned, with_parameters
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule
from lightning_plasticity.units.tracing.rules.unknown import unknown
from lightning_plasticity.units.tracing.shadow import regroup
from lightning_plasticity.units.tracing.why import COMBINED, INDEX, MATCHED

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


def contract(run: Execution, a: Tensor, b: Tensor, spec: str) -> Tensor | None:
    """Return the labels of the Einstein sum ``spec`` of ``a`` and ``b``, of which at most one is a weight."""
    inputs, out = spec.split("->")
    first, second = inputs.split(",")
    if run.is_weight(b) and not run.is_weight(a):
        a, b, first, second = b, a, second, first
    if run.is_weight(a) and not run.is_weight(b):
        return _with_weight(run, a, b, run.of(b), first, second, out)
    return _without_weight(run, run.of(a), run.of(b), first, second, out)


def _with_weight(
    run: Execution, weight: Tensor, read: Tensor, labels: Tensor | None, w: str, x: str, out: str
) -> Tensor | None:
    """Read the columns of the weight, then let its rows be born; return the labels of the result."""
    w = "".join(c.upper() if weight.stride(d) == 0 and weight.shape[d] > 1 else c for d, c in enumerate(w))
    shared = [c for c in w if c in x]
    rows = [d for d, c in enumerate(w) if c in out]
    contracted = [d for d, c in enumerate(w) if c not in out]
    columns = _columns(run, labels, x, shared, {c: weight.shape[w.index(c)] for c in shared})
    shape = [columns.shape[shared.index(c)] if c in shared else 1 for c in w]
    run.read_columns(weight, contracted, columns.reshape(shape), read)
    return _arrange(run.write_rows(weight, rows, contracted), w, out)


def _columns(run: Execution, labels: Tensor | None, x: str, shared: list[str], sizes: dict[str, int]) -> Tensor:
    """Return the label of every column, in the dimensions ``shared``, on which all positions agree."""
    if labels is None:
        return torch.full([1] * len(shared), NOBODY)
    positions = [c for c in x if c not in shared]
    labels = labels.permute([x.index(c) for c in (*shared, *positions)])
    if all(n == 1 for n in labels.shape[len(shared) :]) and not run.labels.mixture[labels].any():
        return labels.reshape(labels.shape[: len(shared)])
    full = [sizes[c] for c in shared]
    if all(n == 1 for n in labels.shape[len(shared) :]):
        full = list(labels.shape[: len(shared)])
    seen = labels.expand(*full, *labels.shape[len(shared) :]).reshape(math.prod(full), -1)
    return agree(run.labels, seen).reshape(full)


def _without_weight(
    run: Execution, a: Tensor | None, b: Tensor | None, first: str, second: str, out: str
) -> Tensor | None:
    """Mix what is contracted; let the rest meet."""
    parts = []
    for labels, letters in ((a, first), (b, second)):
        gone = [d for d, c in enumerate(letters) if c not in out]
        parts.append(_arrange(run.mix(labels, gone, MATCHED), letters, out))
    if _is_context(run, parts[0], b):
        parts[0] = None
    elif _is_context(run, parts[1], a):
        parts[1] = None
    return run.meet(parts[0], parts[1])


def _is_context(run: Execution, factors: Tensor | None, of: Tensor | None) -> bool:
    """Return whether ``factors`` are one number for units that vanish; it is used up, and their sum is theirs alone."""
    if factors is None or of is None or of.numel() == 1 or factors.numel() > 1:
        return False
    if not run.labels.hard[of].all() or run.labels.offset[of].any():
        return False
    is_context = bool((run.labels.mixture[factors] | (factors == FOREIGN)).all())
    if is_context:
        run.labels.spoil_members(factors[run.labels.mixture[factors]])
    return is_context


def _arrange(labels: Tensor | None, letters: str, out: str) -> Tensor | None:
    """Return compact labels with dimensions ``letters`` in the order of ``out``; those not in ``out`` have size 1."""
    if labels is None:
        return None
    order = [c for c in out if c in letters]
    rest = [c for c in letters if c not in out]
    labels = labels.permute([letters.index(c) for c in (*order, *rest)])
    return labels.reshape([labels.shape[order.index(c)] if c in order else 1 for c in out])


def _biased(
    run: Execution, labels: Tensor | None, bias: Tensor | None, shape: list[int] | None, ndim: int
) -> Labelling:
    own = run.of(bias, "bias")
    own = own.reshape(shape) if own is not None and shape is not None else aligned(own, ndim)
    return run.meet(labels, own, SUM)


@rule("mm")
def mm(run: Execution, call: Call) -> Labelling:
    """Multiply two matrices."""
    return contract(run, call.args[0], call.args[1], "pk,kr->pr")


@rule("addmm")
def addmm(run: Execution, call: Call) -> Labelling:
    """Multiply two matrices and add a bias."""
    return _biased(run, contract(run, call.args[1], call.args[2], "pk,kr->pr"), call.args[0], None, 2)


@rule("bmm")
def bmm(run: Execution, call: Call) -> Labelling:
    """Multiply batches of matrices."""
    return contract(run, call.args[0], call.args[1], "bpk,bkr->bpr")


@rule("baddbmm")
def baddbmm(run: Execution, call: Call) -> Labelling:
    """Multiply batches of matrices and add."""
    return _biased(run, contract(run, call.args[1], call.args[2], "bpk,bkr->bpr"), call.args[0], None, 3)


@rule("mv")
def mv(run: Execution, call: Call) -> Labelling:
    """Multiply a matrix and a vector."""
    return contract(run, call.args[0], call.args[1], "pk,k->p")


@rule("addmv")
def addmv(run: Execution, call: Call) -> Labelling:
    """Multiply a matrix and a vector and add."""
    return _biased(run, contract(run, call.args[1], call.args[2], "pk,k->p"), call.args[0], None, 1)


@rule("embedding")
def embedding(run: Execution, call: Call) -> Labelling:
    """Choose rows of a table: every column of it writes one feature."""
    table, indices = call["weight"], call["indices"]
    run.spoil(run.of(indices), INDEX)
    letters = "abcdefg"[: indices.ndim]
    if not run.is_weight(table):
        labels = run.mix(run.of(table), [0], COMBINED)
        return _arrange(labels, "kr", letters + "r")
    run.read_columns(table, [0], torch.full((1, 1), NOBODY), indices)
    return _arrange(run.write_rows(table, [1], [0]), "kr", letters + "r")


@rule("_embedding_bag _embedding_bag_forward_only")
def embedding_bag(run: Execution, call: Call) -> Labelling:
    """Choose rows of a table and combine those of a bag: every column of it writes one feature."""
    table, indices, weights = call["weight"], call["indices"], call["per_sample_weights"]
    if not run.is_weight(table):
        return unknown(run, call)
    for t in (indices, call["offsets"]):
        run.spoil(run.of(t), INDEX)
    run.read_columns(table, [0], torch.full((1, 1), NOBODY), indices)
    scales = None if weights is None else run.mix(run.of(weights), [0], COMBINED)
    labels = run.meet(run.write_rows(table, [1], [0]), None if scales is None else scales.reshape(1, 1))
    return [labels, *(foreign(t.ndim) for t in call.outs[1:])]


@rule("convolution")
def convolution(run: Execution, call: Call) -> Labelling:
    """Convolve: channels are read and written, in independent groups; space is positions."""
    x, weight, groups, transposed = call["input"], call["weight"], int(call["groups"]), bool(call["transposed"])
    space = weight.ndim - 2
    channel = x.ndim - space - 1
    per_group_in = x.shape[channel] // groups
    bias_shape = [-1 if d == channel else 1 for d in range(x.ndim)]
    if groups > 1 and per_group_in == 1 and call.out.shape[channel] == groups:
        labels = _depthwise(run, x, weight, channel)
    else:
        split_x = [*x.shape[:channel], groups, per_group_in, *x.shape[channel + 1 :]]
        split_w = weight.detach().view(groups, -1, *weight.shape[1:])
        w = ("gkr" if transposed else "grk") + "uvw"[:space]
        batch = "p"[:channel]
        spec = f"{w},{batch}gk{'xyz'[:space]}->{batch}gr{'abc'[:space]}"
        labels = _split_contract(run, split_w, x, split_x, spec)
        merged = [*call.out.shape[:channel], groups, call.out.shape[channel] // groups, *call.out.shape[channel + 1 :]]
        labels = None if labels is None else regroup(labels, tuple(merged), tuple(call.out.shape))
    return _biased(run, labels, call["bias"], bias_shape, x.ndim)


def _split_contract(run: Execution, weight: Tensor, x: Tensor, split: list[int], spec: str) -> Tensor | None:
    inputs, out = spec.split("->")
    w, letters = inputs.split(",")
    labels = run.of(x)
    labels = None if labels is None else regroup(labels, tuple(x.shape), tuple(split))
    if run.is_weight(weight) and not run.is_weight(x):
        return _with_weight(run, weight, x, labels, w, letters, out)
    own = run.of(weight)
    return _without_weight(run, own, labels, w, letters, out)


def _depthwise(run: Execution, x: Tensor, weight: Tensor, channel: int) -> Tensor | None:
    """Pass channels on; every channel's own kernel joins it. Space is mixed."""
    labels = run.mix(run.of(x), list(range(channel + 1, x.ndim)), COMBINED)
    own = run.of(weight, "carried")
    if own is None or labels is None:
        return labels
    kernels = own.expand(weight.shape).reshape(weight.shape[0], -1)  # all entries of a kernel belong to its channel
    shape = [-1 if d == channel else 1 for d in range(x.ndim)]
    return with_parameters(run, labels, kernels.reshape(*shape, kernels.shape[1]), PRODUCT)
