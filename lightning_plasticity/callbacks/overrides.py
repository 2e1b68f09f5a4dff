"""Methods for single layers, from the arguments that differ there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement import Method

Overrides = Mapping[str, Mapping[str, Any]]
"""Arguments of a method by pattern (``*``, ``?``) of group names; plain data, so that a config file can hold it."""


def overriding_methods(
    method: Callable[..., Method],
    arguments: Mapping[str, Any],
    overrides: Overrides | None,
    *,
    per_layer: Sequence[str],
) -> dict[str, Method]:
    """Return a method per pattern.

    Args:
        method: Function that makes the method, such as :func:`~lightning_plasticity.methods.redo`.
        arguments: Its arguments for all groups.
        overrides: Arguments that differ, by pattern of group names.
        per_layer: The arguments that may differ; others are shared by all layers.

    Returns:
        The methods by pattern, in the same order.

    Raises:
        InvalidArgumentError: If an argument is unknown, shared by all layers or out of its range.

    Example:
        >>> from lightning_plasticity.methods import redo
        >>> methods = overriding_methods(redo, {}, {"net.0": {"threshold": 0.1}}, per_layer=["threshold"])
        >>> methods["net.0"].selection.threshold
        0.1
    """
    methods = {}
    for pattern, own in (overrides or {}).items():
        unknown = sorted(set(own) - set(per_layer))
        if unknown:
            raise InvalidArgumentError(
                f"overrides[{pattern!r}] with the arguments {unknown}",
                f"arguments that may differ between layers: {list(per_layer)}",
                "Correct the name, or move what belongs to all layers out of `overrides`",
            )
        methods[pattern] = method(**{**arguments, **own})
    return methods
