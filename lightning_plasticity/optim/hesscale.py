"""The diagonal of the Hessian by one sweep beside the backward pass (HesScale).

Notation: an operation with Jacobian ``J``; ``g`` and ``h`` are the first and the (diagonal of the) second derivative of
the loss by its output. The sweep hands ``(J * J)^T h`` back to its input and adds, where the operation is curved, its
second derivative times ``g``. Mixed derivatives by two different outputs are dropped, which is the approximation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.errors import UnsupportedModelError, check_module
from lightning_plasticity.optim.diagonal import DiagonalMemory
from lightning_plasticity.optim.hesscale_rules import LEAF
from lightning_plasticity.optim.hesscale_table import BROADCASTS, MOVES, RULES


class HesScale(DiagonalMemory):
    """The diagonal of the Hessian of the loss, approximated at about the cost of a second backward pass.

    Hooks the backward pass of one loss at a time, through the graph that autograd has built: layers, functions and sums
    alike, whatever the training step does. Exact for one layer, and always for the last one. Covered are linear layers,
    convolutions (also transposed), element-wise activations, max, average and adaptive pooling, dropout, reshaping,
    indexing, concatenation, residual sums, embeddings, batch normalisation in evaluation mode, and as losses anything
    linear in ``log_softmax`` (cross-entropy with weights, smoothing, soft targets), squared error, Huber and binary
    cross-entropy with logits. Other operations are refused by name, before the backward pass.

    Values accumulate over backward passes as gradients do, until they are taken or the gradient is set to None.
    Activation checkpointing lends what an operation has saved only once, to the gradient, so it does not go with this.

    Args:
        model: Names its parameters in messages.

    Raises:
        InvalidArgumentError: If ``model`` is none.

    References:
        Elsayed, Farrahi, Dangel and Mahmood, `Revisiting Scalable Hessian Diagonal Approximations for Applications in
        Reinforcement Learning` (ICML 2024). After Becker and LeCun (1989), with an exact output layer. Average pooling
        spreads curvature with the squared kernel here, in the published code with the plain one.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> hesscale = HesScale(layer)
        >>> loss = layer(torch.tensor([[1.0, 3.0]])).square().sum()
        >>> hesscale.watch(loss).backward()
        >>> hesscale.take(layer.weight)  # the loss is (w_1 + 3 w_2)^2
        tensor([[ 2., 18.]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        check_module(model)
        self.model = model
        self._sweep = _Sweep(self, 1.0)

    @property
    def is_waiting(self) -> bool:
        """Whether a loss was watched that has not gone backward yet."""
        return self._sweep.is_waiting

    def watch(self, loss: Tensor, *, scale: float = 1.0) -> Tensor:
        """Prepare to follow the backward pass of ``loss``, which must come next.

        Args:
            loss: A scalar.
            scale: The factor by which a gradient scaler has multiplied the loss.

        Returns:
            The loss itself, so that ``hesscale.watch(loss).backward()`` reads well.

        Raises:
            InvalidArgumentError: If the loss is no scalar.
            UnsupportedModelError: If the loss depends on parameters through an operation without a rule.
        """
        self.expect(loss)
        self._sweep.cancel()
        self._sweep = _Sweep(self, scale)
        if loss.grad_fn is not None:
            self._sweep.prepare(loss.grad_fn)
        return loss


class _Operation:
    """A node of the graph, and the second derivatives by its outputs that have come so far."""

    __slots__ = ("arrived", "awaited", "name", "node", "rule", "waits_for_gradient", "ways")

    def __init__(self, node: Node) -> None:
        self.node, self.name = node, node.name()
        self.rule = RULES.get(self.name)
        self.waits_for_gradient = self.rule is not None and self.rule.bend is not None
        self.ways: list[_Way | None] = []
        self.awaited = 0  # ways to here that have not delivered yet
        self.arrived: dict[int, Tensor] = {}

    def passed(self, gradient: Tensor | None) -> Sequence[Tensor | None]:
        """Return the second derivatives by every input, and forget those by the outputs."""
        arrived, self.arrived = self.arrived, {}
        if self.rule is not None:
            needed = tuple(way is not None for way in self.ways)
            values = self.rule(self.node, gradient, arrived.get(0), needed)
            return [self._of_size(i, value) for i, value in enumerate(values)] if self.name in BROADCASTS else values
        if not arrived:
            return [None] * len(self.ways)
        outputs = [arrived.get(i) for i in range(len(self.node._input_metadata))]
        moved: Any = self.node(*outputs)  # type: ignore[operator]
        return moved if isinstance(moved, tuple) else (moved,)

    def _of_size(self, i: int, value: Tensor | None) -> Tensor | None:
        """Sum what was broadcast."""
        following, position = self.node.next_functions[i]
        if value is None or following is None:
            return None
        return value.sum_to_size(following._input_metadata[position].shape)


_Way = tuple[_Operation, int, bool]  # where to, by which of its outputs, and whether through a transposition


class _Sweep:
    """The second derivatives on their way through one graph.

    They run ahead of the gradient as far as operations are linear, at least in pieces, and wait for it where one is
    curved: only there is a call from the backward pass needed.
    """

    def __init__(self, owner: HesScale, scale: float) -> None:
        self.owner, self.scale = owner, scale
        self._hooks: dict[_Operation, RemovableHandle] = {}
        self.is_waiting = False

    def prepare(self, root: Node) -> None:
        """Hook every curved operation between the loss and the parameters."""
        operations = _ancestors(root)
        self._refuse_what_has_no_rule(operations)
        for operation in operations:
            if operation.waits_for_gradient:
                self._hooks[operation] = operation.node.register_prehook(partial(self._arrive, operation))
        self.is_waiting = bool(self._hooks)
        if not operations[0].waits_for_gradient:
            self._advance(operations[0], None)

    def cancel(self) -> None:
        """Remove the hooks of a backward pass that did not come, which would keep the graph alive."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    def _refuse_what_has_no_rule(self, operations: Sequence[_Operation]) -> None:
        reasons = {each.node: reason for each in operations if (reason := _objection(each))}
        if reasons:
            places = [f"{_place(node, self.owner.model)}, which {reason}" for node, reason in reasons.items()]
            only_training = all(node.name() == "NativeBatchNormBackward0" for node in reasons)
            raise UnsupportedModelError(
                f"HesScale cannot pass {'; '.join(places)}",
                "layers that are linear or element by element, and batch normalisation in evaluation mode",
                "Use first-order utilities (no curvature)"
                + (", or put batch normalisation into evaluation mode" if only_training else ""),
            )

    def _arrive(self, operation: _Operation, gradients: tuple[Tensor | None, ...]) -> None:
        """Go on from a curved operation, just before its gradient passes."""
        self.is_waiting = False
        self._hooks.pop(operation).remove()
        with torch.no_grad():
            self._advance(operation, gradients[0])

    def _advance(self, operation: _Operation, gradient: Tensor | None) -> None:
        """Send on what has arrived at an operation, and at those after it that wait for nothing more."""
        ready = [operation]
        while ready:
            operation = ready.pop()
            if operation.name == LEAF:
                self._keep(operation)
                continue
            for way, value in zip(operation.ways, operation.passed(gradient), strict=True):
                if way is None:
                    continue
                reached, position, turned = way
                if value is not None:
                    value = value.t() if turned else value
                    known = reached.arrived.get(position)
                    reached.arrived[position] = value if known is None else known + value
                reached.awaited -= 1
                if not (reached.awaited or reached.waits_for_gradient):
                    ready.append(reached)

    def _keep(self, leaf: _Operation) -> None:
        for value in leaf.arrived.values():
            parameter = leaf.node.variable  # type: ignore[attr-defined]
            value = value.to(torch.promote_types(parameter.dtype, torch.float32))
            self.owner.add(parameter, value / self.scale if self.scale != 1 else value)


def _ancestors(root: Node) -> list[_Operation]:
    """Return the operations between a loss and its leaves, from the loss on, joined by their ways."""
    known = {root: _Operation(root)}
    waiting = deque(known.values())
    while waiting:
        operation = waiting.popleft()
        for following, position in operation.node.next_functions:
            if turned := (following is not None and following.name() == "TBackward0"):
                following, position = following.next_functions[0]
            if following is None:
                operation.ways.append(None)
                continue
            reached = known.get(following)
            if reached is None:
                reached = known[following] = _Operation(following)
                waiting.append(reached)
            reached.awaited += 1
            operation.ways.append((reached, position, turned))
    return list(known.values())


def _objection(operation: _Operation) -> str:
    if operation.rule is not None:
        return operation.rule.objection(operation.node)
    return "" if operation.name in MOVES or operation.name == LEAF else "has no rule"


def _place(node: Node, model: nn.Module) -> str:
    """Return an operation by the name of its layer, or of the layer before it."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    kind = node.name().partition("Backward")[0]
    relation, front, seen = "of", [node], {node}
    while front:
        reached = [following for each in front for following, _ in each.next_functions if following is not None]
        for each in reached:
            if each.name() == LEAF and each.variable in names:  # type: ignore[attr-defined]
                path = names[each.variable].rpartition(".")[0]  # type: ignore[attr-defined]
                return f"{kind} {relation} {path!r} ({type(model.get_submodule(path)).__name__})"
        front = [each for each in reached if each not in seen]
        seen.update(front)
        relation = "after"
    return kind
