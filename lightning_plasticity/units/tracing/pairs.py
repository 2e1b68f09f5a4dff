"""What comes out where two labels of different units meet: one function for each pair of kinds of labels.

One rule stands behind everything here: a unit may be given to a weight column only if the column reads nothing but this
unit. So where a number is the *sum* of a unit and of anything else that depends on the example, the unit is lost and
the number is foreign; a *product* with something foreign (a mask, a gate, an attention weight) vanishes with the unit
and remains its own, provided that the factor that the unit gives is zero where the unit is (a sigmoid is not).

Every function is given the labels of both sides, ``[N]``, of which the pairs are distinct, and returns the labels of
what comes out, ``[N]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.joining import joined, several
from lightning_plasticity.units.tracing.labels import (
    BLEND,
    FOREIGN,
    FOREIGN_KIND,
    HARD,
    MIXTURE,
    NOBODY,
    SOFT,
    Labels,
)
from lightning_plasticity.units.tracing.why import ADDED, DILUTED, SCALES

_MOST_BLENDS = 2**14


@dataclass(frozen=True)
class Manner:
    """How an operation combines two operands element by element.

    Args:
        adds: Whether one operand remains where the other is zero, as in a sum, a maximum or a choice.
        normalises: Whether it is an operation by which a normalisation applies a statistic to its own input.
    """

    adds: bool = False
    normalises: bool = False


PRODUCT = Manner()
SUM = Manner(adds=True)


def _beside_several(manner: Manner) -> str:
    """Return why what meets several units at once is none of them."""
    return ADDED if manner.adds else SCALES


def _beside_foreign(labels: Labels, units: Tensor, manner: Manner) -> Tensor:
    """Return the labels of units combined with something foreign: it remains in a sum, or if a gate opens at zero."""
    lost = labels.offset[units] | manner.adds
    if not lost.any():
        return units
    result = units.clone()
    result[lost] = labels.blend(units[lost], [units[lost]], DILUTED)
    return result


def _hard_and_hard(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Unify units that meet one-to-one. One that meets many is context: in a product it loses, a sum is lost."""
    rp, rq = labels.find(p), labels.find(q)
    many_p, many_q = several(rp, rq), several(rq, rp)
    many, both = many_p | many_q, many_p & many_q
    if manner.adds:
        result = torch.full_like(p, FOREIGN)
        labels.spoil(torch.cat([p[many_p], q[many_q]]), ADDED)
        labels.spoil(torch.cat([p[many], q[many]]), DILUTED)
        if many.any():
            result[many] = labels.lose(torch.cat([p[many], q[many]]))
    else:
        labels.spoil(torch.cat([p[many_p & ~both], q[many_q & ~both]]), SCALES)
        result = torch.where(many_p, q, p)
        if both.any():  # what they scale next tells which of the two is context
            result[both] = labels.blend(p[both], [p[both], q[both]], SCALES, q[both])
    if not many.all():
        result[~many] = labels.child(p[~many], q[~many], summed=manner.adds)
    return result


def _soft_and_hard(labels: Labels, soft: Tensor, hard: Tensor, manner: Manner) -> Tensor:
    """Let soft labels join the units that they meet; several units with one are one in a sum, and drop it otherwise."""
    root, other = labels.find(soft), labels.find(hard)
    alike = manner.adds and bool((root == root[0]).all())  # one number for all is a part of the activation function
    elsewhere = labels.has_row[root] | several(root, other)
    joins = (root == other) | ~(elsewhere & several(other, root) if manner.adds and not alike else elsewhere)
    labels.unify(soft[joins], hard[joins])
    if joins.all():
        return hard
    labels.spoil(soft[~joins], _beside_several(manner))
    if not manner.adds or alike:
        return hard
    labels.spoil_units(root[~joins], ADDED)
    result = hard.clone()
    result[~joins] = labels.blend(hard[~joins], [hard[~joins]], DILUTED)
    return result


def _soft_and_soft(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Let labels that have no unit yet join the only partner that they meet, until nothing changes."""
    while True:
        rp, rq = labels.find(p), labels.find(q)
        a, b = rp[rp != rq], rq[rp != rq]
        joins = (~labels.has_row[a] & ~several(a, b)) | (~labels.has_row[b] & ~several(b, a))
        if not joins.any():
            break
        labels.unify(a[joins], b[joins])
    met = rp == rq
    labels.spoil(torch.cat([p[~met], q[~met]]), _beside_several(manner))
    result = torch.zeros_like(p)
    if met.any():
        result[met] = labels.child(p[met], q[met], summed=False)
    return result


def _mixture_and_hard(labels: Labels, mixture: Tensor, unit: Tensor, manner: Manner) -> Tensor:
    """Let a norm apply its statistic; in every other case the mixture is used, so its members are one unit or none."""
    if manner.normalises and _is_own_statistic(labels, mixture, unit):
        labels.couple(torch.cat([mixture, unit]))
        return unit
    other = joined(labels, mixture)
    if labels.hard[other].all():
        return _hard_and_hard(labels, other, unit, manner)
    labels.spoil_members(mixture)
    return _beside_foreign(labels, unit, manner)


def _mixture_and_soft(labels: Labels, mixture: Tensor, soft: Tensor, manner: Manner) -> Tensor:
    """Mix parameters in that meet one mixture each; drop the others, and a large table, it is slow."""
    root = labels.find(soft)
    elsewhere = labels.has_row[root] & (root != labels.find(mixture))
    dropped = several(root, mixture) | elsewhere | (len(soft) > _MOST_BLENDS)
    labels.spoil(soft[dropped], _beside_several(manner))
    result = mixture.clone()
    for statistic in (False, True):
        chosen = ~dropped & (labels.statistic[mixture] == statistic)
        if chosen.any():
            p, q = mixture[chosen], soft[chosen]
            each, why = torch.arange(len(p)).repeat(2), labels.reasons[int(labels.if_used[p[0]])]
            result[chosen] = labels.mixtures(len(p), each, torch.cat([p, q]), why, statistic=statistic)
    return result


def _mixture_and_mixture(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Mix further."""
    each = torch.arange(len(p)).repeat(2)
    statistic = bool((labels.statistic[p] & labels.statistic[q]).all())
    why = labels.reasons[int(labels.if_used[p[0]])]
    return labels.mixtures(len(p), each, torch.cat([p, q]), why, statistic=statistic)


def _foreign_and_foreign(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Remember all units that were lost."""
    return labels.lose(torch.cat([p, q])).expand(p.shape)


def _foreign_and_mixture(labels: Labels, other: Tensor, mixture: Tensor, manner: Manner) -> Tensor:
    """Let a norm apply its statistic to its own foreign features; a mixture with anything else is no statistic."""
    if manner.normalises and _is_own_statistic(labels, mixture, other):
        labels.couple(mixture)
        return other
    each, why = torch.arange(len(mixture)).repeat(2), labels.reasons[int(labels.if_used[mixture[0]])]
    return labels.mixtures(len(mixture), each, torch.cat([mixture, other]), why, statistic=False)


def _foreign_and_soft(labels: Labels, other: Tensor, soft: Tensor, manner: Manner) -> Tensor:
    """Blend: what the parameter acts on is no unit, but may come to scale one. A large table is dropped, it is slow."""
    if len(soft) <= _MOST_BLENDS:
        return labels.blend(soft, [soft], DILUTED)
    labels.spoil(soft, DILUTED)
    return other


def _foreign_and_hard(labels: Labels, other: Tensor, unit: Tensor, manner: Manner) -> Tensor:
    """Lose the unit, unless the result vanishes with it."""
    return _beside_foreign(labels, unit, manner)


def _foreign_and_blend(labels: Labels, other: Tensor, blend: Tensor, manner: Manner) -> Tensor:
    """Leave the blend, which has something foreign in it already."""
    return blend


def _blend_and_blend(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Blend further what meets one-to-one."""
    rp, rq = labels.find(labels.core[p]), labels.find(labels.core[q])
    return _blended(labels, p, q, labels.core[p], labels.core[q], several(rp, rq) | several(rq, rp), manner)


def _blend_and_soft(labels: Labels, blend: Tensor, soft: Tensor, manner: Manner) -> Tensor:
    """Let the parameter take part, if it acts on this blend only."""
    root, other = labels.find(labels.core[blend]), labels.find(soft)
    elsewhere = labels.has_row[other] & (root != other)
    return _blended(labels, blend, soft, labels.core[blend], soft, several(other, root) | elsewhere, manner)


def _blended(
    labels: Labels, p: Tensor, q: Tensor, core_p: Tensor, core_q: Tensor, torn: Tensor, manner: Manner
) -> Tensor:
    """Return blends of both, and their cores unified, except where they are torn apart: these are used up."""
    labels.spoil(torch.cat([p[torn], q[torn]]), _beside_several(manner))
    result = torch.full_like(p, FOREIGN)
    p, q, core_p, core_q = p[~torn], q[~torn], core_p[~torn], core_q[~torn]
    if len(p):
        labels.unify(core_p, core_q)
        result[~torn] = labels.blend(torch.where(labels.soft[core_p], core_q, core_p), [p, q], DILUTED)
    return result


def _blend_and_mixture(labels: Labels, blend: Tensor, mixture: Tensor, manner: Manner) -> Tensor:
    """Give up the blend; a norm applies its statistic to what remains, which is foreign."""
    labels.spoil_members(blend)
    if manner.normalises and _is_own_statistic(labels, mixture, labels.core[blend]):
        labels.couple(mixture)
        return torch.full_like(blend, FOREIGN)
    return _foreign_and_mixture(labels, torch.full_like(blend, FOREIGN), mixture, manner)


def _blend_and_hard(labels: Labels, blend: Tensor, unit: Tensor, manner: Manner) -> Tensor:
    """Let what scales one unit only join this unit. A sum is a blend of both."""
    result = unit.clone()
    lost = labels.offset[unit] | manner.adds
    if lost.any():
        core = labels.core[blend[lost]]
        torn = _torn(labels, core, unit[lost])
        result[lost] = _blended(labels, blend[lost], unit[lost], core, unit[lost], torn, manner)
    gates, unit = blend[~lost], unit[~lost]
    alone = labels.core_beside[gates] == NOBODY
    for cores in (labels.core[gates], labels.core_beside[gates]):
        torn = _torn(labels, cores, unit) & (cores != NOBODY)
        labels.spoil_members(gates[torn & alone])
        labels.spoil(cores[torn & ~alone], SCALES)
        joins = ~torn & (cores != NOBODY)
        labels.unify(cores[joins], unit[joins])
    return result


def _torn(labels: Labels, core: Tensor, unit: Tensor) -> Tensor:
    """Return which cores of blends do not meet a unit one-to-one; parameters may join one unit with others."""
    root, other = labels.find(core), labels.find(unit)
    torn = several(root, other) | (~labels.soft[core] & several(other, root))
    return (torn | (labels.soft[core] & labels.has_row[root])) & (root != other)


def _is_own_statistic(labels: Labels, mixture: Tensor, of: Tensor) -> bool:
    """Return whether all mixtures are statistics and their members include everything that they are applied to."""
    if not labels.statistic[mixture].all():
        return False
    members = labels.find(labels.members(mixture.unique()))  # type: ignore[no-untyped-call]
    return bool(torch.isin(labels.find(of), members).all())


MEETINGS: dict[tuple[int, int], Callable[[Labels, Tensor, Tensor, Manner], Tensor]] = {
    (FOREIGN_KIND, FOREIGN_KIND): _foreign_and_foreign,
    (FOREIGN_KIND, BLEND): _foreign_and_blend,
    (FOREIGN_KIND, MIXTURE): _foreign_and_mixture,
    (FOREIGN_KIND, SOFT): _foreign_and_soft,
    (FOREIGN_KIND, HARD): _foreign_and_hard,
    (BLEND, BLEND): _blend_and_blend,
    (BLEND, MIXTURE): _blend_and_mixture,
    (MIXTURE, MIXTURE): _mixture_and_mixture,
    (MIXTURE, SOFT): _mixture_and_soft,
    (MIXTURE, HARD): _mixture_and_hard,
    (HARD, HARD): _hard_and_hard,  # the hard labels settle the matter; the soft ones join them, then each other
    (SOFT, HARD): _soft_and_hard,
    (BLEND, HARD): _blend_and_hard,
    (BLEND, SOFT): _blend_and_soft,
    (SOFT, SOFT): _soft_and_soft,
}
"""What to do with labels of two kinds, the lower kind first, in the order in which it is done."""
