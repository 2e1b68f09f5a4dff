"""One executed operation, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from lightning_plasticity.units.statistics import is_composite


@dataclass(frozen=True)
class Signature:
    """What the schema of an operation tells.

    Args:
        name: Name without namespace for torch's own operations, and without the underscore of in-place variants.
        arguments: Names and defaults of the arguments, in order.
        is_view: Whether every result is a view of an argument.
        is_random: Whether it draws numbers from a generator.
        is_composite: Whether torch writes it as others, as which it arrives, except in inference mode.
        written: Positions and names of the arguments that the operation changes.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    is_view: bool
    is_random: bool
    is_composite: bool
    written: tuple[tuple[int, str], ...]


@lru_cache(maxsize=4096)
def signature(func: OpOverload) -> Signature:
    """Return what the schema of ``func`` tells."""
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    name = name if namespace == "aten" else schema.name
    returns = [r.alias_info for r in schema.returns]
    arguments = list(schema.arguments)
    written = [(i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
    return Signature(
        name.removesuffix("_") if written and not name.startswith("_") else name,
        tuple((a.name, a.default_value if a.has_default_value() else None) for a in arguments),
        bool(returns) and all(r is not None and not r.is_write for r in returns),
        torch.Tag.nondeterministic_seeded in func.tags,
        is_composite(func),
        tuple(written),
    )


def operands_in(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among arguments of an operation, and in the lists among them; nothing lies deeper."""
    return _taken_apart(values)[0]


def _taken_apart(values: Iterable[Any]) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Return the tensors among ``values`` and in the lists among them, and everything with a mark in their place."""
    tensors: list[Tensor] = []
    others: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
            others.append(Tensor)
        elif isinstance(value, (list, tuple)):
            tensors += [v for v in value if isinstance(v, Tensor)]
            others.append(tuple(Tensor if isinstance(v, Tensor) else v for v in value))
        else:
            others.append(value)
    return tensors, tuple(others)


@dataclass(eq=False)
class Call:
    """One executed operation.

    Args:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.

    Attributes:
        signature: What the schema tells.
        name: Name of the operation, see :class:`Signature`.
        inputs: The tensor arguments.
        options: The other arguments, with a mark where a tensor is.
        written: The tensors changed in place.
        outs: The tensors returned, and those changed in place.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def __post_init__(self) -> None:
        assert isinstance(self.func, OpOverload)  # noqa: S101 - nothing else arrives at a dispatch mode
        self.signature = signature(self.func)
        self.name = self.signature.name
        self.inputs, self.options = _taken_apart((*self.args, *self.kwargs.values()))
        self.written = self._written() if self.signature.written else []
        self.outs = operands_in(self.out if isinstance(self.out, (tuple, list)) else (self.out,))
        self.outs += [t for t in self.written if not any(t is o for o in self.outs)]

    @cached_property
    def bound(self) -> dict[str, Any]:
        """All arguments by name, defaults filled in."""
        bound = dict(self.signature.arguments)
        for (name, _), value in zip(self.signature.arguments, self.args, strict=False):
            bound[name] = value
        bound.update(self.kwargs)
        return bound

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def _written(self) -> list[Tensor]:
        places = self.signature.written
        return operands_in(self.args[i] if i < len(self.args) else self.kwargs.get(name) for i, name in places)
