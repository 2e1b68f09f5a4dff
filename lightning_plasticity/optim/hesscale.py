"""The diagonal of the Hessian by one sweep beside the backward pass (HesScale).

Notation: an operation with Jacobian ``J``; ``g`` and ``h`` are the first and the (diagonal of the) second derivative of
the loss by its output. The sweep hands ``(J * J)^T h`` back to its input and adds, where the operation is curved, its
second derivative times ``g``. Mixed derivatives by two different outputs are dropped, which is the approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.optim.diagonal import DiagonalMemory
from lightning_plasticity.optim.hesscale_rules import LEAF
from lightning_plasticity.optim.hesscale_table import BROADCASTS, MOVES, RULES

Edges = tuple[tuple[Node | None, int], ...]
Graph = dict[Node, tuple[str, Edges]]

_AT_ONCE = {LEAF, "TBackward0"}  # linear, of one output, and met at every layer: what arrives is handed on


class HesScale(DiagonalMemory):
    """The diagonal of the Hessian of the loss, approximated at about the cost of a second backward pass.

    Hooks the backward pass of one loss at a time, through the graph that autograd has built: layers, functions and sums
    alike, whatever the training step does. Exact for one layer, and always for the last one. Covered are linear layers,
    convolutions (also transposed), element-wise activations, max, average and adaptive pooling, dropout, reshaping,
    indexing, concatenation, residual sums, embeddings, batch normalisation in evaluation mode, and as losses anything
    linear in ``log_softmax`` (cross-entropy with weights, smoothing, soft targets), squared error, Huber and binary
    cross-entropy with logits. Other operations are refused by name, before the backward pass.

    Values accumulate over backward passes as gradients do, until they are taken or the gradient is set to None.

    Args:
        model: Names its parameters in messages.

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
        self.model = model
        self._sweep = _Sweep(self, 1.0)

    def watch(self, loss: Tensor, *, scale: float = 1.0) -> Tensor:
        """Prepare to follow the backward pass of ``loss``, which must come next.

        Args:
            loss: A scalar.
            scale: The factor by which a gradient scaler has multiplied the loss.

        Returns:
            The loss itself, so that ``hesscale.watch(loss).backward()`` reads well.

        Raises:
            UnsupportedModelError: If the loss depends on parameters through an operation without a rule.
        """
        self.expect()
        self._sweep.cancel()
        self._sweep = _Sweep(self, scale)
        if loss.grad_fn is not None:
            self._sweep.prepare(loss.grad_fn)
        return loss


class _Sweep:
    """The second derivatives on their way through one graph."""

    def __init__(self, owner: HesScale, scale: float) -> None:
        self.owner, self.scale = owner, scale
        self.pending: dict[Node, dict[int, Tensor]] = {}
        self._hooks: dict[Node, RemovableHandle] = {}
        self._graph: Graph = {}

    def prepare(self, root: Node) -> None:
        """Hook every node between the loss and the parameters."""
        self._graph = _ancestors(root)
        reasons = {node: reason for node, (name, _) in self._graph.items() if (reason := _objection(node, name))}
        if reasons:
            places = [f"{_place(node, self.owner.model)}, which {reason}" for node, reason in reasons.items()]
            only_training = all(node.name() == "NativeBatchNormBackward0" for node in reasons)
            raise UnsupportedModelError(
                f"HesScale cannot pass {'; '.join(places)}",
                "layers that are linear or element by element, and batch normalisation in evaluation mode",
                "Use first-order utilities (no curvature)"
                + (", or put batch normalisation into evaluation mode" if only_training else ""),
            )
        for node, (name, _) in self._graph.items():
            if name not in _AT_ONCE:
                self._hooks[node] = node.register_prehook(partial(self._pass, node))

    def cancel(self) -> None:
        """Forget the graph, and the hooks of a backward pass that did not come, which would keep it alive."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks, self._graph, self.pending = {}, {}, {}

    def _pass(self, node: Node, gradients: tuple[Tensor | None, ...]) -> None:
        """Send what has gathered at a node on to its inputs, just before its gradient passes."""
        self._hooks.pop(node).remove()
        gathered = self.pending.pop(node, {})
        name, edges = self._graph[node]
        rule = RULES.get(name)
        if not gathered and (rule is None or rule.bend is None):
            return
        with torch.no_grad():
            if rule is None:
                moved: Any = node(*(gathered.get(i) for i in range(len(gradients))))  # type: ignore[operator]
                self._deliver(edges, moved if isinstance(moved, tuple) else (moved,))
            else:
                needed = tuple(following is not None for following, _ in edges)
                self._deliver(edges, rule(node, gradients[0], gathered.get(0), needed), resize=name in BROADCASTS)

    def _deliver(self, edges: Edges, values: Sequence[Tensor | None], *, resize: bool = False) -> None:
        for (following, position), value in zip(edges, values, strict=True):
            if following is not None and value is not None:
                if resize:
                    value = value.sum_to_size(following._input_metadata[position].shape)
                self._gather(following, position, value)

    def _gather(self, node: Node, position: int, value: Tensor) -> None:
        """Add a second derivative to those of the output ``position`` of a node."""
        name, edges = self._graph[node]
        if name == LEAF:
            parameter = node.variable  # type: ignore[attr-defined]
            value = value.to(torch.promote_types(parameter.dtype, torch.float32))
            self.owner.add(parameter, value / self.scale if self.scale != 1 else value)
        elif name == "TBackward0":
            self._deliver(edges, (value.t(),))
        else:
            waiting = self.pending.setdefault(node, {})
            waiting[position] = waiting[position] + value if position in waiting else value


def _ancestors(root: Node) -> Graph:
    """Return the nodes between a loss and its leaves, from the loss on, with their names and what they lead to."""
    graph: Graph = {}
    front = [root]
    while front:
        graph.update((node, (node.name(), node.next_functions)) for node in front)
        reached = dict.fromkeys(following for node in front for following, _ in graph[node][1])
        front = [node for node in reached if node is not None and node not in graph]
    return graph


def _objection(node: Node, name: str) -> str:
    if name in RULES:
        return RULES[name].objection(node)
    return "" if name in MOVES or name == LEAF else "has no rule"


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
