"""Units that are only used together become one: the members of a mixture, if each of them is in no other one."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels


def several(a: Tensor, b: Tensor) -> Tensor:
    """Return for every ``i`` whether ``a[i]`` is paired with more than one distinct ``b``."""
    size = int(a.max()) + 1 if len(a) else 0
    partner = torch.empty(size, dtype=b.dtype)
    partner[a] = b
    torn = torch.zeros(size, dtype=torch.bool)
    torn[a[partner[a] != b]] = True
    return torn[a]


def joined(labels: Labels, read: Tensor) -> Tensor:
    """Return the labels of what is read, with units in place of mixtures: all units in a mixture become one.

    That is so if there are several mixtures that have no unit in common, nothing foreign, and a rule: the maxima of
    some units each, or a sum of experts. One mixture alone would make one unit of a layer.

    Args:
        labels: The union-find.
        read: Labels of any shape.
    """
    mixtures = read[labels.mixture[read]].unique()  # type: ignore[no-untyped-call]
    if len(mixtures) < 2 or labels.lost[mixtures].any():
        return read
    mixture, member = _memberships(labels, mixtures)
    is_unit = ~labels.mixture[member]
    root = labels.find(member)
    unfit = (member == FOREIGN) | labels.lost[member] | (labels.core[member] != NOBODY) | labels.is_opaque(member)
    unfit |= several(torch.where(is_unit, root, member), mixture)
    good = torch.ones(labels.count, dtype=torch.bool)
    good[mixture[unfit]] = False
    has_row = torch.zeros_like(good)
    has_row[mixture[is_unit & labels.has_row[root]]] = True
    good &= has_row
    chosen = mixtures[good[mixtures]]
    if len(chosen) < 2:
        return read
    keep = good[mixture]
    unit = torch.full((labels.count,), NOBODY)
    unit[chosen] = _join(labels, mixture[keep], member[keep], chosen)
    return torch.where(unit[read] != NOBODY, unit[read], read)


def _memberships(labels: Labels, mixtures: Tensor) -> tuple[Tensor, Tensor]:
    """Return pairs of a mixture and what it contains, directly or in mixtures that it contains, and each itself."""
    of = torch.full((labels.count,), NOBODY)
    of[mixtures] = mixtures
    pairs = [torch.stack([mixtures, mixtures])]
    for child, parent in reversed(labels.edges):
        inside = (of[child] != NOBODY) & labels.mixture[child]
        if inside.any():
            pairs.append(torch.stack([of[child[inside]], parent[inside]]))
            of[parent[inside]] = of[child[inside]]
    mixture, member = torch.cat(pairs, 1)
    return mixture, member


def _join(labels: Labels, mixture: Tensor, member: Tensor, chosen: Tensor) -> Tensor:
    """Make one unit of all members of each mixture, and of itself: a parameter that has met it is part of the unit.

    Args:
        labels: The union-find.
        mixture: Mixtures, ``[M]``.
        member: What they contain, ``[M]``.
        chosen: The distinct mixtures.

    Returns:
        A new label of each unit, for what may not be zero where the unit is.
    """
    new = labels.fresh(len(chosen))
    of = torch.zeros(labels.count, dtype=torch.long)
    of[chosen] = new
    labels.writable("offset")[new] = True
    units = ~labels.mixture[member]
    labels.edges.append((of[mixture[units]], member[units]))
    labels.unify(of[mixture], member)
    return new
