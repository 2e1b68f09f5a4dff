"""How the second derivative of the loss passes the operations of autograd that make up a network.

Notation: ``g`` and ``h`` are the first and the (diagonal of the) second derivative of the loss by the output of an
operation, ``J`` is the operation's Jacobian. What a node has saved has the names of PyTorch's derivative formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEAF = "torch::autograd::AccumulateGrad"

Values = Sequence[Tensor | None]
Needed = tuple[bool, ...]
Send = Callable[[Any, Tensor, Needed], Values]
Function = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """How ``h`` passes an operation.

    Args:
        send: Returns ``(J * J)^T h`` for every input, from the node, ``h`` and which inputs need it; the others may be
            None.
        bend: Returns what the operation's own curvature adds to ``h`` of its first input, from the node and ``g``; None
            for an operation that is linear, at least in pieces.
        objection: Returns why a node cannot be passed after all, or an empty string.
        finish: The last part of the way, from the node and the sum of what ``send`` and ``bend`` return; None if they
            go all of it.
    """

    send: Send
    bend: Function | None = None
    objection: Callable[[Any], str] = lambda node: ""
    finish: Function | None = None

    def __call__(self, node: Any, g: Tensor | None, h: Tensor | None, needed: Needed) -> Values:
        """Return ``h`` of every input; None where it is zero."""
        values: list[Tensor | None] = [None] * len(needed) if h is None else list(self.send(node, h, needed))
        if self.bend is not None and g is not None and needed[0]:
            bent = self.bend(node, g.to(torch.promote_types(g.dtype, torch.float32)))
            first = values[0]
            values[0] = bent if first is None else first + bent
        if self.finish is not None and values[0] is not None:
            values[0] = self.finish(node, values[0])
        return values


def _tuple(values: Tensor | Values) -> Values:
    return (values,) if isinstance(values, Tensor) else values


def saved(node: Any, name: str) -> Tensor:
    """Return a tensor that a node has saved for its backward pass."""
    tensor: Tensor = getattr(node, f"_saved_{name}")
    return tensor


def again(node: Any, h: Tensor) -> Tensor:
    """Return ``J^T h`` for the first input, the gradient's own way back."""
    return _tuple(node(h))[0]  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------- contractions


def addmm(node: Any, h: Tensor, needed: Needed) -> Values:
    """Bias, activation and weight of a linear layer."""
    bias = _times_squared(h.sum(0), node._saved_beta) if needed[0] else None
    return bias, *_product(node._saved_mat1, node._saved_mat2, _times_squared(h, node._saved_alpha), needed[1:])


def _times_squared(h: Tensor, factor: float) -> Tensor:
    return h if factor == 1 else h * factor**2


def _product(first: Tensor | None, second: Tensor | None, h: Tensor, needed: Needed) -> Values:
    left = h @ _squared(second, h).mT if needed[0] and second is not None else None
    right = (h.mT @ _squared(first, h)).mT if needed[1] and first is not None else None
    return left, right


def _squared(factor: Tensor, like: Tensor) -> Tensor:
    factor = factor.to(like.dtype)
    return factor * factor


def convolution(node: Any, h: Tensor, needed: Needed) -> Values:
    """Input, weight and bias of a convolution: its own backward pass, with squares."""
    squares = [saved(node, "input").to(h.dtype).square(), saved(node, "weight").to(h.dtype).square()]
    geometry = [node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_transposed]
    rest = [node._saved_output_padding, node._saved_groups, list(needed)]
    bias = node._saved_bias_sym_sizes_opt or None
    return torch.ops.aten.convolution_backward(h, *squares, bias, *geometry, *rest)  # type: ignore[no-any-return]


def matmul(node: Any, h: Tensor, needed: Needed) -> Values:
    """Both factors of a matrix product."""
    return _product(node._saved_self, node._saved_mat2, h, needed)


_ASIDE = {"TBackward0", "ViewBackward0", "ExpandBackward0", "PermuteBackward0", "TransposeBackward0", "CloneBackward0",
          "UnsqueezeBackward0", "ReshapeAliasBackward0", "ToCopyBackward0", "UnsafeViewBackward0"}  # fmt: skip


def _is_parameter(node: Any) -> bool:
    """Return whether a node leads to a leaf, through nothing but changes of shape."""
    while node is not None and node.name() in _ASIDE:
        node = node.next_functions[0][0]
    return node is None or node.name() == LEAF


def two_activations(node: Any) -> str:
    """Object to a product of two tensors that both depend on activations, whose second derivative is mixed."""
    factors = [following for following, _ in node.next_functions[-2:]]
    if factors[0] is factors[1]:
        return "multiplies a tensor by itself, which only square() tells apart from two tensors"
    return "" if any(_is_parameter(factor) for factor in factors) else "multiplies two activations"


def times(node: Any, h: Tensor, needed: Needed) -> Values:
    """Element-wise product; ``node`` multiplies by the other factor and sums what was broadcast."""
    factors = (saved(node, "other"), saved(node, "self"))
    parts = [_tuple(node(h * f))[i] if n else None for i, (f, n) in enumerate(zip(factors, needed, strict=True))]
    return tuple(parts)


def over(node: Any, h: Tensor, needed: Needed) -> Values:
    """Division by a constant."""
    return again(node, h / saved(node, "other")), None


def by_activation(node: Any) -> str:
    """Object to a division by something that has a gradient."""
    return "divides by an activation" if len(node.next_functions) > 1 and node.next_functions[1][0] else ""


def plus(sign: int) -> Send:
    """Return the rule of a sum (or difference) of two tensors, the second one scaled."""

    def send(node: Any, h: Tensor, needed: Needed) -> Values:
        parts = _tuple(node(h))
        return (
            (parts[0], None if parts[1] is None else parts[1] * (sign * node._saved_alpha)) if len(parts) > 1 else parts
        )

    return send


# ------------------------------------------------------------------------------------------- element by element


def once(node: Any, h: Tensor, needed: Needed) -> Values:
    """Half the way through a diagonal ``J``."""
    return (again(node, h), *(None for _ in needed[1:]))


def twice(node: Any, h: Tensor, needed: Needed) -> Values:
    """``J`` is diagonal."""
    return once(node, again(node, h), needed)


def curved(relative: Function) -> Rule:
    """Return the rule of a function with ``f'' = f' r``: ``J (J h + r g)``, where ``relative`` returns ``r g``."""
    return Rule(once, relative, finish=again)


def prelu(node: Any, h: Tensor, needed: Needed) -> Values:
    """Input and slope of a PReLU."""
    slope = _tuple(node(h * saved(node, "self").clamp(max=0)))[1] if needed[1] else None
    return again(node, again(node, h)), slope


def tanh(node: Any, g: Tensor) -> Tensor:
    """Curvature of tanh relative to its slope."""
    return -2 * g * saved(node, "result")


def sigmoid(node: Any, g: Tensor) -> Tensor:
    """Curvature of the logistic sigmoid relative to its slope."""
    return g * (1 - 2 * saved(node, "result"))


def exp(node: Any, g: Tensor) -> Tensor:
    """Curvature of exp relative to its slope."""
    return g


def sqrt(node: Any, g: Tensor) -> Tensor:
    """Curvature of the square root relative to its slope."""
    return -0.5 * g / saved(node, "result").square()


def bent(function: Function) -> Function:
    """Return the bend of an element-wise function of the saved input, which autograd differentiates twice."""

    def bend(node: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = saved(node, "self").detach().to(g.dtype).requires_grad_()
            (slope,) = torch.autograd.grad(function(node, x).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(slope.sum(), x)
        return g * second

    return bend


def elu(node: Any, x: Tensor) -> Tensor:
    """ELU, SELU and CELU from their common form, whose other half is straight."""
    factor: float = node._saved_scale * node._saved_alpha
    return factor * torch.expm1(x.clamp(max=0) * node._saved_input_scale)


# ------------------------------------------------------------------------------------ pooling and normalisation


def mean(node: Any, h: Tensor, needed: Needed) -> Values:
    """A mean, over some or all dimensions."""
    spread = again(node, h)
    return (spread * (h.numel() / spread.numel()),)


def average_pool(pool: Callable[..., Tensor], dims: int) -> Send:
    """Return the rule of average pooling: every window spreads ``h`` with the square of its weight."""

    def send(node: Any, h: Tensor, needed: Needed) -> Values:
        ones = torch.ones_like(saved(node, "self")[(0,) * (saved(node, "self").ndim - dims)])[None, None].to(h.dtype)
        where = (list(node._saved_kernel_size), list(node._saved_stride), list(node._saved_padding))
        pads, own = (node._saved_ceil_mode, node._saved_count_include_pad), node._saved_divisor_override
        inside = pool(ones, *where, *pads, divisor_override=1)
        weight = pool(ones, *where, *pads, divisor_override=own) / inside
        return (again(node, h * weight[0, 0]),)

    return send


def adaptive_pool(dims: int) -> Send:
    """Return the rule of adaptive average pooling, whose windows differ in size."""

    def send(node: Any, h: Tensor, needed: Needed) -> Values:
        weight: Tensor = torch.ones((), dtype=h.dtype, device=h.device)
        for size, out in zip(saved(node, "self").shape[-dims:], h.shape[-dims:], strict=True):
            widths = [math.ceil((i + 1) * size / out) - i * size // out for i in range(out)]
            weight = weight[..., None] / torch.tensor(widths, dtype=h.dtype, device=h.device)
        return (again(node, h * weight),)

    return send


def batch_norm(node: Any, h: Tensor, needed: Needed) -> Values:
    """Input, weight and bias of a batch normalisation with fixed statistics."""
    x = saved(node, "input")
    shape, rest = (1, -1, *(1 for _ in x.shape[2:])), [0, *range(2, x.ndim)]
    factor = torch.rsqrt(saved(node, "running_var") + node._saved_eps)
    normalised = (x - saved(node, "running_mean").reshape(shape)) * factor.reshape(shape)
    weight = 1 if node._saved_weight is None else saved(node, "weight")
    return (
        h * (factor * weight).square().reshape(shape) if needed[0] else None,
        (h * normalised.square()).sum(rest) if needed[1] else None,
        h.sum(rest) if needed[2] else None,
    )


def in_training(node: Any) -> str:
    """Object to statistics of the batch."""
    return "normalises over the batch in training mode, which couples its samples" if node._saved_training else ""
