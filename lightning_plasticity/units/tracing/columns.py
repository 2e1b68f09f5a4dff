"""What happens to labels along dimensions: in a reduction, and in the columns of a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.joining import joined, several
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels
from lightning_plasticity.units.tracing.why import SCALES, SHARED, SPREAD


def mix(labels: Labels, of: Tensor, dims: Sequence[int], why: str, *, statistic: bool = False) -> Tensor:
    """Return the labels after everything along ``dims`` was combined into one number.

    Where one unit alone is involved its label stays; where several are, or a unit and something foreign, a mixture is
    made.

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
    of = torch.where(labels.lost[of], FOREIGN, of)
    kept = [d for d in range(of.ndim) if d not in varying]
    shape = [1 if d in varying else n for d, n in enumerate(of.shape)]
    rows = of.permute(*kept, *varying).reshape(-1, math.prod(of.shape[d] for d in varying))
    roots = labels.find(rows)
    low = torch.where(rows == NOBODY, labels.count, roots).amin(1)
    single = low >= roots.amax(1)
    result = _name(labels, rows)
    several = (~single).nonzero()[:, 0]
    factor = _common_factor(labels, rows[several])
    result[several] = factor
    several = several[factor == NOBODY]
    if len(several):
        position = torch.arange(len(several))[:, None].expand(-1, rows.shape[1])
        codes = (position * labels.count + rows[several]).unique()  # type: ignore[no-untyped-call]
        child, member = codes // labels.count, codes % labels.count
        owned = member != NOBODY
        result[several] = labels.mixtures(len(several), child[owned], member[owned], why, statistic=statistic)
    return result.reshape(shape)


def _name(labels: Labels, rows: Tensor) -> Tensor:
    """Return by which label to call the sum of each row, all labels of which are of one unit."""
    result = rows.amax(1)
    uneven = ((rows != result[:, None]) & (rows != NOBODY)).any(1)
    if uneven.any():
        keys = rows[uneven] + labels.count * labels.rank(rows[uneven], adds=True) * (rows[uneven] != NOBODY)
        result[uneven] = keys.amax(1) % labels.count
    return result


def _common_factor(labels: Labels, rows: Tensor) -> Tensor:
    """Return of each row, if its numbers are products of one unit and of others, the label of the one; else nobody.

    The others scale it: their sum with a factor of its own each vanishes with the one.
    """
    result = torch.zeros(len(rows), dtype=torch.long)
    there = rows != NOBODY
    products = ((labels.core_beside[rows] != NOBODY) | ~there).all(1)
    if not products.any():
        return result
    for one, other in ((labels.core, labels.core_beside), (labels.core_beside, labels.core)):
        roots = labels.find(one[rows])
        low = torch.where(there, roots, labels.count).amin(1)
        common = products & (low == torch.where(there, roots, NOBODY).amax(1)) & (result == NOBODY)
        if common.any():
            labels.spoil(other[rows[common]], SCALES)
            own = torch.where(there, one[rows], NOBODY).amax(1)[common]
            open_at_zero = (labels.offset[rows] & there).any(1)[common]
            result[common] = torch.where(open_at_zero, labels.shift(own), own)
    return result


def agree(labels: Labels, seen: Tensor) -> Tensor:
    """Return the one label of every weight column, given all the labels that the column reads.

    Several labels that live in one column only are unified, and so are those in a mixture that is read; soft labels
    join; everything else that disagrees, also with something foreign, is spoiled, because the column cannot be given to
    one of them.

    Args:
        labels: The union-find.
        seen: Labels that each column reads at its positions, ``[C, P]``.

    Returns:
        One label per column, ``[C]``; nobody where it reads constants only, foreign where it can be given to no unit.
    """
    if labels.mixture[seen].any():
        seen = joined(labels, seen)
        mixture = labels.mixture[seen]
        labels.spoil_members(seen[mixture])
        seen = torch.where(mixture, FOREIGN, seen)
    columns = torch.arange(len(seen))[:, None].expand_as(seen)
    codes = (columns * labels.count + seen).unique()  # type: ignore[no-untyped-call]
    column, label = codes // labels.count, codes % labels.count
    result = torch.zeros(len(seen), dtype=torch.long)
    shared = torch.zeros(len(seen), dtype=torch.bool)
    shared[column[label == FOREIGN]] = True
    soft = labels.soft[label]
    hard = ~soft & (label > FOREIGN)
    _settle_hard(labels, column[hard], label[hard], shared, result)
    _settle_soft(labels, column[soft], label[soft], shared, result)
    return torch.where(shared, FOREIGN, result)


def _settle_hard(labels: Labels, column: Tensor, label: Tensor, shared: Tensor, result: Tensor) -> None:
    """Write into ``result`` the column's label; unify labels that share a column and have no other."""
    root = labels.find(label)
    torn = torch.zeros_like(shared)
    torn[column[several(root, column) & several(column, root) & ~_in_pairs(root, column)]] = True
    labels.spoil(label[shared[column]], SHARED)
    labels.spoil(label[torn[column]], SPREAD)
    shared |= torn
    good = ~shared[column]
    result[column[good]] = label[good]
    labels.unify(label[good], result[column[good]])


def _in_pairs(root: Tensor, column: Tensor) -> Tensor:
    """Return which columns are read by two units that share all columns in which either meets another."""
    size = int(column.max()) + 1 if len(column) else 0
    low = torch.full((size,), int(root.max()) + 1 if len(root) else 0).scatter_reduce(0, column, root, "amin")
    high = torch.full((size,), NOBODY).scatter_reduce(0, column, root, "amax")
    is_end = (root == low[column]) | (root == high[column])
    only = torch.ones(size, dtype=torch.bool)
    only[column[~is_end]] = False
    pair = only[column] & (low != high)[column]
    result = torch.zeros_like(pair)
    first, second = low[column[pair]], high[column[pair]]
    result[pair] = ~(several(first, second) | several(second, first))
    crowded = ~pair & (low != high)[column]
    return result & ~(torch.isin(low[column], root[crowded]) | torch.isin(high[column], root[crowded]))


def _settle_soft(labels: Labels, column: Tensor, label: Tensor, shared: Tensor, result: Tensor) -> None:
    """Let soft labels that live in one column only join it; a column that reads any other is shared."""
    root = labels.find(label)
    owner = result[column]
    at_home = ~several(root, column) & ~shared[column]
    free = ~labels.has_row[root] | (owner == NOBODY) | (root == labels.find(owner))
    joins = at_home & free
    labels.spoil(label[~joins], SPREAD)
    vacant = joins & (owner == NOBODY)
    result[column[vacant]] = label[vacant]
    labels.unify(label[joins], result[column[joins]])
