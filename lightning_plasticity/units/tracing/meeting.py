"""What happens when labels meet in an element-wise operation, number by number.

Tensors of labels are *compact*: they have as many dimensions as the tensor they describe, and size 1 along every
dimension in which the labels do not vary. Where both sides have the same label, or one has none, there is nothing to
decide; what comes out where two different units meet is said in ``pairs``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.labels import HARD, NOBODY, Labels
from lightning_plasticity.units.tracing.pairs import MEETINGS, PRODUCT, Manner

_KINDS = HARD + 1
_RULES = {_KINDS * lower + higher: rule for (lower, higher), rule in MEETINGS.items()}  # both kinds in one number


def meet(labels: Labels, a: Tensor | None, b: Tensor | None, manner: Manner = PRODUCT) -> Tensor | None:
    """Return the labels of an element-wise combination of two tensors.

    Args:
        labels: The union-find.
        a: Labels of one operand, None for nobody.
        b: Labels of the other, broadcastable to ``a``.
        manner: How they are combined.

    Returns:
        Compact labels of the result; None for nobody.
    """
    if a is None or b is None:
        return b if a is None else a
    if a is b or (a.shape == b.shape and torch.equal(a, b)):
        return a
    shape = tuple(map(max, a.shape, b.shape))
    for soft, units in ((b, a), (a, b)):
        if soft.shape == shape and labels.adopt(soft, units):
            return units.expand(shape)
    a, b = a.expand(shape), b.expand(shape)
    result = torch.where(a != NOBODY, a, b)
    differ = (a != b) & (a != NOBODY) & (b != NOBODY)
    if not differ.any():
        return result
    clash = differ & (labels.find(a) != labels.find(b))
    alike = differ & ~clash
    if manner.adds and alike.any():
        labels.add(a[alike], b[alike])
    named_by_b = alike & (labels.rank(b, adds=manner.adds) > labels.rank(a, adds=manner.adds))
    result = torch.where(named_by_b, b, result)
    if clash.any():
        codes = a[clash] * labels.count + b[clash]
        if bool((codes[1:] > codes[:-1]).all()):  # as a rule: parameters meet the channels in the order of both
            result[clash] = _resolve(labels, a[clash], b[clash], manner)
        else:
            codes, inverse = codes.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            result[clash] = _resolve(labels, codes // labels.count, codes % labels.count, manner)[inverse]
    return result


def _resolve(labels: Labels, p: Tensor, q: Tensor, manner: Manner) -> Tensor:
    """Return the label of what comes out where the distinct pairs ``(p[i], q[i])``, of different units, meet."""
    kind_p, kind_q = labels.kind(p), labels.kind(q)
    p, q = torch.where(kind_p < kind_q, p, q), torch.where(kind_p < kind_q, q, p)
    pair = _KINDS * torch.minimum(kind_p, kind_q) + torch.maximum(kind_p, kind_q)
    first = int(pair[0])
    if bool((pair == first).all()):
        return _RULES[first](labels, p, q, manner)
    result = torch.zeros_like(p)
    for kinds, rule in _RULES.items():
        chosen = pair == kinds
        if chosen.any():
            result[chosen] = rule(labels, p[chosen], q[chosen], manner)
    return result
