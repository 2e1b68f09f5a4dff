"""Names that stay the same whatever wraps the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lightning_plasticity.units.group import UnitGroup

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which torch's own wrappers (compile, FSDP, activation checkpointing) keep what they wrap."""


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return the dotted name of every module, without the names that wrappers add.

    Args:
        model: The model, wrapped or not.

    Returns:
        One name per module, in the order of the model.
    """
    names = {}
    transparent = {
        name
        for name, m in model.named_modules()
        if isinstance(m, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    }
    for name, module in model.named_modules():
        parts = name.split(".") if name else []
        kept = [
            part
            for i, part in enumerate(parts)
            if part not in _WRAPPERS and not (part == "module" and ".".join(parts[:i]) in transparent)
        ]
        names[module] = ".".join(kept)
    return names


def with_unique_names(groups: Sequence[UnitGroup]) -> tuple[UnitGroup, ...]:
    """Return the groups with ``#2``, ``#3``, … appended where several would have the same name."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = number = seen.get(group.name, 0) + 1
        named.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return tuple(named)
