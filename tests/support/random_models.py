"""Random networks: a list of numbers is read as a program that grows a graph of layers, one step per number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Step = Callable[..., Tensor]
BATCH = 6


@dataclass
class Node:
    """A tensor of the graph: which step makes it, from which other nodes."""

    step: Step
    sources: tuple[int, ...]
    layer: nn.Module | None = None


class RandomModel(nn.Module):
    """Runs the nodes that the outputs need, in order.

    Args:
        nodes: The nodes; the first ``inputs`` are the model's inputs.
        outputs: Those that are returned.
        inputs: The number of inputs.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[int], inputs: int) -> None:
        super().__init__()
        self.nodes, self.outputs, self.inputs = tuple(nodes), tuple(outputs), inputs
        self.needed = set(outputs)
        for index in reversed(range(len(nodes))):
            if index in self.needed:
                self.needed.update(nodes[index].sources)
        for index in sorted(self.needed):
            if nodes[index].layer is not None:
                self.add_module(f"layer{index}", nodes[index].layer)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Tensor] = dict(enumerate(inputs))
        for index in range(self.inputs, len(self.nodes)):
            if index in self.needed:
                node = self.nodes[index]
                values[index] = node.step(*(values[source] for source in node.sources))
        return tuple(values[index] for index in self.outputs)


class _UnfitError(Exception):
    """A value that is too large, or that does not depend on the example, such as the mean of an instance norm."""


class Grower:
    """Grows a graph and keeps an example value of every node, so that each step fits what it is given."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self.nodes: list[Node] = []
        self.values: list[Tensor] = []

    def draw(self, choices: Sequence) -> object:
        """Return one of ``choices``, decided by the next number; the first one if there are none left."""
        return choices[self.numbers.pop(0) % len(choices)] if self.numbers else choices[0]

    def add(self, step: Step, *sources: int) -> int:
        layer = step if isinstance(step, nn.Module) else None
        with torch.no_grad():
            value = step(*(self.values[source] for source in sources))
        if value[0].numel() > 600 or value.std(0).max() < 1e-4:
            raise _UnfitError
        self.nodes.append(Node(step, sources, layer))
        self.values.append(value)
        return len(self.nodes) - 1

    def source(self) -> int:
        """Return one of the latest nodes; the last one in most cases."""
        last = len(self.nodes) - 1
        return max(0, last - self.draw((0, 0, 0, 1, 2, 3, 5)))

    def partner(self, index: int, fits: Callable[[torch.Size, torch.Size], bool]) -> int:
        """Return the latest other node whose shape fits."""
        shape = self.values[index].shape
        others = [i for i in range(len(self.values)) if i != index and fits(self.values[i].shape, shape)]
        return others[-1 - self.draw(range(len(others)))] if others else index

    def grow(self) -> None:
        """Add one step to one of the latest nodes."""
        index = self.source()
        kind = {2: VECTOR, 3: SEQUENCE, 4: IMAGE}[self.values[index].ndim]
        with suppress(_UnfitError):
            self.draw(kind + COMMON)(self, index)


def same(one: torch.Size, other: torch.Size) -> bool:
    return one == other


def same_but_features(one: torch.Size, other: torch.Size, dim: int) -> bool:
    if len(one) != len(other):
        return False
    return all(a == b for i, (a, b) in enumerate(zip(one, other, strict=True)) if i != dim % len(one))


def channels(grower: Grower, index: int) -> int:
    value = grower.values[index]
    return value.shape[1] if value.ndim == 4 else value.shape[-1]


def feature_dim(grower: Grower, index: int) -> int:
    return 1 if grower.values[index].ndim == 4 else -1


def linear(grower: Grower, index: int) -> None:
    bias = grower.draw((True, True, False))
    grower.add(nn.Linear(channels(grower, index), grower.draw((4, 6, 8, 1, 3)), bias=bias), index)


def conv(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    groups = grower.draw([g for g in (1, 1, 2, width) if width % g == 0])
    outputs = groups * grower.draw((1, 2, 3)) if groups > 1 else grower.draw((4, 6, 8, 3))
    kernel = grower.draw((1, 3))
    grower.add(nn.Conv2d(width, outputs, kernel, padding=kernel // 2, groups=groups), index)


def transposed_conv(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    groups = grower.draw([g for g in (1, 2) if width % g == 0])
    grower.add(nn.ConvTranspose2d(width, groups * grower.draw((2, 3)), 2, groups=groups), index)


def activation(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    prelu = nn.PReLU(width) if grower.values[index].ndim != 3 else nn.PReLU()
    grower.add(grower.draw((nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh(), prelu, nn.Dropout(0.3), F.softplus)), index)


def norm(grower: Grower, index: int) -> None:
    width, ndim = channels(grower, index), grower.values[index].ndim
    if ndim == 4:
        groups = 2 if width % 2 == 0 else 1
        norms = [nn.BatchNorm2d(width), nn.GroupNorm(groups, width)]
        norms += [nn.InstanceNorm2d(width, affine=True)] if grower.values[index][0, 0].numel() > 2 else []
        grower.add(grower.draw(norms), index)
    elif width > 2:
        norms = [nn.LayerNorm(width), nn.RMSNorm(width)] + ([nn.BatchNorm1d(width)] if ndim == 2 else [])
        grower.add(grower.draw(norms[::-1]), index)


def add(grower: Grower, index: int) -> None:
    grower.add(torch.add, index, grower.partner(index, same))


def multiply(grower: Grower, index: int) -> None:
    partner = grower.partner(index, same)
    grower.add(lambda one, other: one * torch.sigmoid(other), index, partner)


def concatenate(grower: Grower, index: int) -> None:
    dim = feature_dim(grower, index)
    partner = grower.partner(index, partial(same_but_features, dim=dim))
    grower.add(lambda *parts: torch.cat(parts, dim=dim), index, partner)


def split(grower: Grower, index: int) -> None:
    dim, width = feature_dim(grower, index), channels(grower, index)
    if width > 1:
        start = width // 2
        grower.add(lambda x: x.narrow(dim, 0, start), index)
        grower.add(lambda x: x.narrow(dim, start, width - start), index)


def residual(grower: Grower, index: int) -> None:
    width, inner = channels(grower, index), grower.draw((5, 7))
    first, last = (nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1))
    if grower.values[index].ndim != 4:
        first, last = nn.Linear(width, inner), nn.Linear(inner, width)
    grower.add(torch.add, index, grower.add(last, grower.add(nn.ReLU(), grower.add(first, index))))


def gate(grower: Grower, index: int) -> None:
    if channels(grower, index) % 2 == 0:
        grower.add(nn.GLU(dim=feature_dim(grower, index)), index)


def shuffle(grower: Grower, index: int) -> None:
    if channels(grower, index) % 2 == 0:
        grower.add(nn.ChannelShuffle(2), index)


def pool(grower: Grower, index: int) -> None:
    if min(grower.values[index].shape[2:]) > 1:
        grower.add(grower.draw((nn.MaxPool2d(2), nn.AvgPool2d(2))), index)


def flatten(grower: Grower, index: int) -> None:
    grower.add(grower.draw((partial(torch.flatten, start_dim=1), channels_last_flatten)), index)


def channels_last_flatten(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1)


def mean(grower: Grower, index: int) -> None:
    dims = (2, 3) if grower.values[index].ndim == 4 else (1,)
    grower.add(lambda x: x.mean(dims), index)


def squeeze(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    gates = grower.add(nn.Linear(width, width), grower.add(lambda x: x.mean((2, 3)), index))
    grower.add(lambda x, g: x * torch.sigmoid(g)[:, :, None, None], index, gates)


def to_sequence(grower: Grower, index: int) -> None:
    grower.add(lambda x: x.flatten(2).transpose(1, 2), index)


def again(grower: Grower, index: int) -> None:
    fitting = [
        n.layer
        for n in grower.nodes
        if isinstance(n.layer, nn.Linear) and n.layer.in_features == channels(grower, index)
    ]
    if fitting:
        grower.add(grower.draw(fitting), index)


def transpose(grower: Grower, index: int) -> None:
    grower.add(lambda x: x.transpose(1, 2), index)


def attention(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    q, k, v = (grower.add(nn.Linear(width, 4), index) for _ in range(3))
    weights = grower.add(lambda q, k: (q @ k.transpose(1, 2)).softmax(-1), q, k)
    grower.add(torch.matmul, weights, v)


def product(grower: Grower, index: int) -> None:
    partner = grower.partner(index, lambda one, other: len(one) == 3 and one[2] == other[1])
    if grower.values[partner].shape[1] == grower.values[index].shape[2]:
        grower.add(torch.matmul, index, partner)


def unsqueeze(grower: Grower, index: int) -> None:
    width = channels(grower, index)
    if width % 2 == 0:
        grower.add(lambda x: x.unflatten(-1, (2, -1)), index)


COMMON = (activation, activation, norm, norm, norm, add, residual, concatenate, split, multiply, gate)
VECTOR = (linear, linear, linear, unsqueeze, again)
SEQUENCE = (linear, linear, linear, mean, transpose, attention, product, again)
IMAGE = (conv, conv, conv, conv, conv, conv, transposed_conv, shuffle, pool, flatten, mean, squeeze, to_sequence)
INPUTS = ((BATCH, 5), (BATCH, 3, 4, 4), (BATCH, 4, 6))


def output_layer(grower: Grower) -> tuple[int, int]:
    """Add an output layer to the last node on which one can stand; return both."""
    for last in reversed(range(len(grower.nodes))):
        width = channels(grower, last)
        with suppress(_UnfitError):
            layer = nn.Conv2d(width, 3, 1) if grower.values[last].ndim == 4 else nn.Linear(width, 3)
            return last, grower.add(layer, last)
    raise AssertionError


def random_model(numbers: Sequence[int]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the model that ``numbers`` describe, and inputs for it.

    Args:
        numbers: Any non-negative integers; more of them make a larger model.

    Returns:
        The model and a tuple of inputs.
    """
    grower = Grower(numbers)
    inputs = tuple(torch.randn(INPUTS[grower.draw(range(3))]) for _ in range(grower.draw((1, 1, 1, 2))))
    for value in inputs:
        grower.nodes.append(Node(nn.Identity(), ()))
        grower.values.append(value)
    first = {2: linear, 3: linear, 4: conv}[inputs[-1].ndim]
    extra = grower.draw((0, 0, 0, 1, 2, 4))
    first(grower, len(inputs) - 1)
    while grower.numbers:
        grower.grow()
    last, output = output_layer(grower)
    outputs = [output]
    if extra:  # a hidden node is an output as well
        outputs.append(max(last - extra, 0))
    return RandomModel(grower.nodes, outputs, len(inputs)), inputs
