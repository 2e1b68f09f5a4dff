"""Names that stay the same whatever wraps the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_plasticity.units.group import UnitGroup

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names under which torch's own wrappers (compile, FSDP, activation checkpointing) keep what they wrap."""


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return the dotted name of every module, without the names that wrappers add.

    Args:
        model: The model, wrapped or not.

    Returns:
        One name per module, in the order of the model.
    """
    named = list(model.named_modules())
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    transparent = {name for name, module in named if isinstance(module, parallel)}
    return {module: _without_wrappers(name, transparent) for name, module in named}


def _without_wrappers(name: str, transparent: set[str]) -> str:
    """Return the name of a module without the parts that wrappers add; ``transparent`` keep a model as ``module``."""
    parts = name.split(".")
    if not transparent and _WRAPPERS.isdisjoint(parts):
        return name
    kept = [
        part
        for i, part in enumerate(parts)
        if part not in _WRAPPERS and not (part == "module" and ".".join(parts[:i]) in transparent)
    ]
    return ".".join(kept)


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module by its dotted name without wrappers; of a wrapper and what it wraps, the latter."""
    return {name: module for module, name in module_names(model).items()}


def tensor_at(modules: Mapping[str, nn.Module], path: str) -> Tensor | None:
    """Return the parameter or buffer with the dotted name ``path``; None if there is none."""
    layer, _, name = path.rpartition(".")
    owner = modules.get(layer)
    if owner is None:
        return None
    own = {**owner._parameters, **owner._buffers}
    return own.get(name)


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its dotted name without wrappers; a shared one under its first name."""
    shapes: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for module, path in module_names(model).items():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen and not is_lazy(parameter):
                shapes[f"{path}.{name}" if path else name] = tuple(parameter.shape)
            seen.add(id(parameter))
    return shapes


def with_unique_names(groups: Sequence[UnitGroup]) -> tuple[UnitGroup, ...]:
    """Return the groups with ``#2``, ``#3``, … appended where several would have the same name."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = number = seen.get(group.name, 0) + 1
        named.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return tuple(named)
