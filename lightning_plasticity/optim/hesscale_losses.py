"""How the second derivative begins at a loss; exact. The notation is that of ``hesscale_rules``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_plasticity.optim.hesscale_rules import Needed, Rule, Values, saved


def _softmax_slope(node: Any, h: Tensor, needed: Needed) -> Values:
    q, dim = saved(node, "result").to(h.dtype).exp(), node._saved_dim
    return (h * (1 - 2 * q) + q.square() * h.sum(dim, keepdim=True),)


def _softmax_bend(node: Any, g: Tensor) -> Tensor:
    """A loss that is linear in log-probabilities, with coefficients ``g``, has ``-sum(g)`` times log-sum-exp in it."""
    q, dim = saved(node, "result").to(g.dtype).exp(), node._saved_dim
    return torch.addcmul(q, q, q, value=-1).mul_(g.sum(dim, keepdim=True).neg_())


def _slope(node: Any, h: Tensor, needed: Needed) -> Values:
    """Send through an element-wise loss, whether reduced or not."""
    one_way = node(torch.ones_like(h))
    first = one_way if isinstance(one_way, Tensor) else one_way[0]
    return (first.square() * h, *(None for _ in needed[1:]))


def _share(node: Any, g: Tensor) -> Tensor:
    """Return the derivative of the loss by every term of a sum or mean."""
    return g / saved(node, "self").numel() if node._saved_reduction == 1 else g


def _squared_error(node: Any, g: Tensor) -> Tensor:
    return (2 * _share(node, g)).expand_as(saved(node, "self"))


def _huber(node: Any, g: Tensor) -> Tensor:
    inside: Tensor = (saved(node, "self") - saved(node, "target")).abs() <= node._saved_delta
    return _share(node, g) * inside


def _smooth_l1(node: Any, g: Tensor) -> Tensor:
    width: float = node._saved_beta
    return _share(node, g) * ((saved(node, "self") - saved(node, "target")).abs() < width) / width


def _binary(node: Any, g: Tensor) -> Tensor:
    q = saved(node, "self").to(g.dtype).sigmoid()
    bend = _share(node, g) * q * (1 - q)
    if node._saved_pos_weight is not None:
        bend = bend * (1 + (saved(node, "pos_weight") - 1) * saved(node, "target"))
    return bend if node._saved_weight is None else bend * saved(node, "weight")


def _target(node: Any) -> str:
    return (
        "has a target with a gradient" if any(following is not None for following, _ in node.next_functions[1:]) else ""
    )


LOSSES: dict[str, Rule] = {
    "LogSoftmaxBackward0": Rule(_softmax_slope, _softmax_bend),
    "NllLossBackward0": Rule(_slope),
    "NllLoss2DBackward0": Rule(_slope),
    "KlDivBackward0": Rule(_slope, objection=_target),
    "MseLossBackward0": Rule(_slope, _squared_error, _target),
    "HuberLossBackward0": Rule(_slope, _huber, _target),
    "SmoothL1LossBackward0": Rule(_slope, _smooth_l1, _target),
    "BinaryCrossEntropyWithLogitsBackward0": Rule(_slope, _binary, _target),
}
