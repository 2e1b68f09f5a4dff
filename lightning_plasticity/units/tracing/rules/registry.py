"""The registry of rules, keyed by the names of torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload

from lightning_plasticity.units.tracing.rules.call import Call

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

Labelling: TypeAlias = Tensor | list[Tensor | None] | None
Rule: TypeAlias = "Callable[[Execution, Call], Labelling]"

_RULES: dict[str, Rule] = {}
_TAGGED: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operations called ``names``, separated by spaces; also what only some releases tag."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            assert name not in _RULES, name  # noqa: S101 - our own bug
            _RULES[name] = function
        return function

    return register


def rule_for_tag(tag: str) -> Callable[[Rule], Rule]:
    """Register a rule for all operations to which torch gives the tag ``tag``."""

    def register(function: Rule) -> Rule:
        _TAGGED[tag] = function
        return function

    return register


def rule_of(call: Call) -> Rule | None:
    """Return the rule for ``call``: by name, else by a tag of the operation or of its functional variant."""
    if call.name not in _RULES:
        tags = set(_tags(call.func))
        functional = getattr(torch.ops.aten, call.name, None) if "::" not in call.name else None
        if functional is not None:
            tags |= {tag for overload in functional.overloads() for tag in _tags(getattr(functional, overload))}
        found = [function for tag, function in _TAGGED.items() if tag in tags]
        if not found:
            return None
        _RULES[call.name] = found[0]
    return _RULES[call.name]


def _tags(func: object) -> list[str]:
    return [tag.name for tag in func.tags] if isinstance(func, OpOverload) else []
