"""Methods for single layers, from the arguments that differ there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_plasticity.errors import InvalidArgumentError, check_mapping
from lightning_plasticity.replacement import Method

Overrides = Mapping[str, Mapping[str, Any]]
"""Arguments of a method by pattern (``*``, ``?``) of group names; plain data, so that a config file can hold it."""


def methods_by_layer(
    method: Callable[..., Method],
    arguments: Mapping[str, Any],
    overrides: Overrides | None,
    *,
    per_layer: Sequence[str],
) -> tuple[Method, dict[str, Method]]:
    """Return the method of all groups, and those of the groups in which arguments differ.

    Args:
        method: Function that makes the method, such as :func:`~lightning_plasticity.methods.redo`.
        arguments: Its arguments for all groups.
        overrides: Arguments that differ, by pattern of group names.
        per_layer: The arguments that may differ; others are shared by all layers.

    Returns:
        The method, and others by pattern, in the order of ``overrides``.

    Raises:
        InvalidArgumentError: If something else than arguments is given, or one is unknown, shared by all layers or out
            of its range.

    Example:
        >>> from lightning_plasticity.methods import redo
        >>> _, others = methods_by_layer(redo, {}, {"net.0": {"threshold": 0.1}}, per_layer=["threshold"])
        >>> others["net.0"].selection.threshold
        0.1
    """
    check_mapping("overrides", overrides, "arguments")
    others = {}
    for pattern, own in (overrides or {}).items():
        if not isinstance(own, Mapping):
            raise InvalidArgumentError(
                f"overrides[{pattern!r}]={own!r}",
                f"arguments by name, of {list(per_layer)}",
                f"Write {{{pattern!r}: {{{per_layer[0]!r}: ...}}}}",
            )
        unknown = sorted(set(own) - set(per_layer))
        if unknown:
            raise InvalidArgumentError(
                f"overrides[{pattern!r}] with the arguments {unknown}",
                f"arguments that may differ between layers: {list(per_layer)}",
                "Correct the name, or move what belongs to all layers out of `overrides`",
            )
        others[pattern] = method(**{**arguments, **own})
    return method(**arguments), others
