"""What happens when labels meet: in an element-wise operation, in a reduction, in the columns of a weight.

Label tensors are *compact*: they have as many dimensions as the tensor they describe, and size 1 along every
dimension in which the labels do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units.labels import NOBODY, Labels

CONTEXT = "it modulates several units at once (a gate or context), so it is not one of them"
SHARED = "its weight column also reads a feature that is no unit"
FOREIGN = "it is added to a feature that is no unit, and both are read by the same weight column"
SPREAD = "the layer that reads it mixes it with other units in the same column"


def meet(
    labels: Labels, a: Tensor | None, b: Tensor | None, *, normalising: bool = False, summing: bool = False
) -> Tensor | None:
    """Return the labels of an element-wise combination of two tensors.

    Args:
        labels: The union-find.
        a: Labels of one operand, None for nobody.
        b: Labels of the other, broadcastable to ``a``.
        normalising: Whether the operation is one in which a normalisation applies a statistic to its own input.
        summing: Whether the operation adds the operands.

    Returns:
        Compact labels of the result; None for nobody.
    """
    if a is None or b is None:
        return b if a is None else a
    if a.shape == b.shape and torch.equal(a, b):
        return a
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    a, b = a.expand(shape), b.expand(shape)
    clash = (a != NOBODY) & (b != NOBODY) & (labels.find(a) != labels.find(b))
    result = torch.where(a != NOBODY, a, b)
    if clash.any():
        codes, inverse = (a[clash] * labels.count + b[clash]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        result[clash] = _resolve(labels, codes // labels.count, codes % labels.count, normalising, summing)[inverse]
    return result


def _resolve(labels: Labels, p: Tensor, q: Tensor, normalising: bool, summing: bool) -> Tensor:
    """Return the label of what comes out where the distinct pairs ``(p[i], q[i])``, of different units, meet."""
    result = torch.zeros_like(p)
    mix_p, mix_q = labels.mixture[p], labels.mixture[q]
    both = mix_p & mix_q
    if both.any():
        a, b, n = p[both], q[both], int(both.sum())
        each = torch.arange(n).repeat(2)
        statistic = bool((labels.statistic[a] & labels.statistic[b]).all())
        why = labels.reasons[int(labels.why[a[0]])]
        result[both] = labels.mixtures(n, each, torch.cat([a, b]), why, statistic=statistic)
    for mixed, mixture, other in ((mix_p & ~mix_q, p, q), (mix_q & ~mix_p, q, p)):
        if mixed.any():
            result[mixed] = _use(labels, mixture[mixed], other[mixed], normalising)
    plain = ~(mix_p | mix_q)
    both, either = labels.soft[p] & labels.soft[q], labels.soft[p] | labels.soft[q]
    rules = ((plain & ~either, _pair), (plain & either & ~both, _join), (plain & both, _join_each_other))
    for chosen, rule in rules:  # the hard labels settle the matter; the soft ones join them, then each other
        if chosen.any():
            result[chosen] = rule(labels, p[chosen], q[chosen], summing)
    return result


def _use(labels: Labels, mixture: Tensor, other: Tensor, normalising: bool) -> Tensor:
    """Settle what a mixture does to the labels that it meets; return the labels of the result."""
    soft = labels.soft[other]
    labels.spoil(other[soft], CONTEXT)
    used, hard = mixture[~soft], other[~soft]
    if len(used):
        own = torch.isin(labels.find(hard), labels.find(labels.members(used.unique()))).all()  # type: ignore[no-untyped-call]
        if normalising and own and labels.statistic[used].all():
            labels.couple(torch.cat([used, hard]))
        else:
            labels.spoil_members(used)
    return torch.where(soft, mixture, other)


def _join(labels: Labels, p: Tensor, q: Tensor, summing: bool) -> Tensor:
    """Let each soft label join the one unit that it meets; those that meet several are dropped."""
    soft, hard = torch.where(labels.soft[p], p, q), torch.where(labels.soft[p], q, p)
    root, other = labels.find(soft), labels.find(hard)
    joins = (root == other) | ((_partners(root, other) == 1) & ~labels.hard_class[root])
    labels.spoil(soft[~joins], CONTEXT)
    labels.unify(soft[joins], hard[joins])
    return hard


def _join_each_other(labels: Labels, p: Tensor, q: Tensor, summing: bool) -> Tensor:
    """Unify soft labels that meet one-to-one, unless each of them has joined a unit of its own."""
    rp, rq = labels.find(p), labels.find(q)
    single = (_partners(rp, rq) == 1) & (_partners(rq, rp) == 1)
    joins = (rp == rq) | (single & ~(labels.hard_class[rp] & labels.hard_class[rq]))
    labels.spoil(torch.cat([p[~joins], q[~joins]]), CONTEXT)
    result = torch.zeros_like(p)
    if joins.any():
        result[joins] = labels.child(p[joins], q[joins], summed=False)
    return result


def _pair(labels: Labels, p: Tensor, q: Tensor, summing: bool) -> Tensor:
    """Unify hard labels that meet one-to-one; a label that meets many loses."""
    rp, rq = labels.find(p), labels.find(q)
    many_p, many_q = _partners(rp, rq) > 1, _partners(rq, rp) > 1
    result = torch.where(many_p, torch.where(many_q, NOBODY, q), p)
    labels.spoil(p[many_p], CONTEXT)
    labels.spoil(q[many_q], CONTEXT)
    one = ~many_p & ~many_q
    if one.any():
        result[one] = labels.child(p[one], q[one], summed=summing)
    return result


def _partners(a: Tensor, b: Tensor) -> Tensor:
    """Return for every ``i`` the number of distinct ``b`` that ``a[i]`` is paired with."""
    pairs = torch.stack([a, b]).unique(dim=1)  # type: ignore[no-untyped-call]
    values, inverse = (torch.cat([a, pairs[0]])).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return torch.bincount(inverse[len(a) :], minlength=len(values))[inverse[: len(a)]]


def dilute(labels: Labels, of: Tensor, other: Tensor | None) -> Tensor:
    """Spoil the units to which data that belongs to nobody is added: no weight column reads them alone.

    Args:
        labels: The union-find.
        of: Labels of one term of a sum.
        other: Labels of the other term, which depends on the example.

    Returns:
        ``of`` without the soft labels that were dropped.
    """
    alone = of != NOBODY if other is None else (of != NOBODY) & (other == NOBODY)
    wide = of.expand(alone.shape)
    hit = wide[alone]
    labels.spoil(hit[~labels.mixture[hit] & ~labels.soft[hit]], FOREIGN)
    labels.spoil(hit[labels.soft[hit]], CONTEXT)
    return torch.where(alone & labels.soft[wide], NOBODY, wide)


def mix(labels: Labels, of: Tensor, dims: Sequence[int], why: str, *, statistic: bool = False) -> Tensor:
    """Return the labels after everything along ``dims`` was combined into one number.

    Where one unit alone is involved its label stays; where several are, a mixture is made.

    Args:
        labels: The union-find.
        of: Compact labels.
        dims: Dimensions that are combined; they keep size 1.
        why: The reason for which the units are spoiled if a mixture of them is used.
        statistic: Whether the result is a statistic, see :meth:`Labels.mixtures`.
    """
    varying = [d % of.ndim for d in dims if of.shape[d] > 1] if of.ndim else []
    if not varying:
        return of
    kept = [d for d in range(of.ndim) if d not in varying]
    shape = [1 if d in varying else n for d, n in enumerate(of.shape)]
    rows = of.permute(*kept, *varying).reshape(-1, math.prod(of.shape[d] for d in varying))
    roots = labels.find(rows)
    low = torch.where(rows == NOBODY, labels.count, roots).amin(1)
    single = low >= roots.amax(1)
    result = rows.amax(1)
    several = (~single).nonzero()[:, 0]
    if len(several):
        position = torch.arange(len(several))[:, None].expand(-1, rows.shape[1])
        codes = (position * labels.count + rows[several]).unique()  # type: ignore[no-untyped-call]
        child, member = codes // labels.count, codes % labels.count
        owned = member != NOBODY
        result[several] = labels.mixtures(len(several), child[owned], member[owned], why, statistic=statistic)
    return result.reshape(shape)


def agree(labels: Labels, seen: Tensor) -> Tensor:
    """Return the one label of every weight column, given all the labels that the column reads.

    Several labels that live in one column only are unified; soft labels join; everything else that disagrees is
    spoiled, because the column cannot be given to one of them.

    Args:
        labels: The union-find.
        seen: Labels that each column reads at its positions, ``[C, P]``.

    Returns:
        One label per column, ``[C]``; nobody where there is none.
    """
    if labels.mixture[seen].any():
        labels.spoil_members(seen[labels.mixture[seen]])
        seen = torch.where(labels.mixture[seen], NOBODY, seen)
    columns = torch.arange(len(seen))[:, None].expand_as(seen)
    codes = (columns * labels.count + seen).unique()  # type: ignore[no-untyped-call]
    column, label = codes // labels.count, codes % labels.count
    result = torch.zeros(len(seen), dtype=torch.long)
    empty = torch.zeros(len(seen), dtype=torch.bool)
    empty[column[label == NOBODY]] = True
    soft = labels.soft[label]
    hard = ~soft & (label != NOBODY)
    _settle_hard(labels, column[hard], label[hard], empty, result)
    _settle_soft(labels, column[soft], label[soft], empty, result)
    return result


def _settle_hard(labels: Labels, column: Tensor, label: Tensor, empty: Tensor, result: Tensor) -> None:
    """Write into ``result`` the column's label; unify labels that share a column and have no other."""
    root = labels.find(label)
    torn = torch.zeros_like(empty)
    torn[column[(_partners(root, column) > 1) & (_partners(column, root) > 1)]] = True
    labels.spoil(label[empty[column]], SHARED)
    labels.spoil(label[torn[column]], SPREAD)
    good = ~empty[column] & ~torn[column]
    result[column[good]] = label[good]
    labels.unify(label[good], result[column[good]])


def _settle_soft(labels: Labels, column: Tensor, label: Tensor, empty: Tensor, result: Tensor) -> None:
    """Let soft labels that live in one column only join it; drop the others."""
    root = labels.find(label)
    owner = result[column]
    at_home = (_partners(root, column) == 1) & ~empty[column]
    free = ~labels.hard_class[root] | (owner == NOBODY) | (root == labels.find(owner))
    joins = at_home & free
    labels.spoil(label[~joins], CONTEXT)
    vacant = joins & (owner == NOBODY)
    result[column[vacant]] = label[vacant]
    labels.unify(label[joins], result[column[joins]])
