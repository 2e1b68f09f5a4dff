"""What the engine refuses before it touches anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MethodType

from torch import nn
from torch.optim import Optimizer

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError, check_mapping, check_optimizer
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.statistic import Statistic
from lightning_plasticity.units import Skipped, UnitGroup, UnitMap

_UNOBSERVED = (
    "its activation is not an input or output of any module (a function reads the weight itself, as that of "
    "nn.MultiheadAttention reads `out_proj.weight`), so it is not observed",
    "Choose a utility of weights such as WeightMagnitude(), or let a module (nn.Identity()) take the activation",
)


def checked_method(method: Method) -> Method:
    """Return ``method``, unless it is something else, such as the callback that runs a method.

    Args:
        method: What was passed as a method.

    Raises:
        InvalidArgumentError: If it is none.
    """
    if not isinstance(method, Method):
        raise InvalidArgumentError(
            f"a method of type {type(method).__name__}",
            "a Method, which a callback has as its attribute `method`",
            "Call a function of lightning_plasticity.methods, such as continual_backprop(), or build a Method(...)",
        )
    return method


def checked_overrides(overrides: Mapping[str, Method] | None) -> dict[str, Method]:
    """Return the methods of single layers by pattern; none for None.

    Args:
        overrides: What was passed as overrides.

    Raises:
        InvalidArgumentError: If they are no methods by pattern.
    """
    check_mapping("overrides", overrides, "methods")
    return {pattern: checked_method(method) for pattern, method in (overrides or {}).items()}


def owner_of(group: UnitGroup, optimizers: Sequence[Optimizer]) -> int | None:
    """Return the position of the optimizer that trains the first incoming weight of a group; None if there is none."""
    parameter = group.incoming[0].tensor
    for position, optimizer in enumerate(optimizers):
        if any(parameter is each for options in optimizer.param_groups for each in options["params"]):
            return position
    return None


def why_not(group: UnitGroup, optimizers: Sequence[Optimizer]) -> str | None:
    """Return why the units of a group must be left alone, in a few words; None if they can be replaced.

    Args:
        group: The group.
        optimizers: The optimizers that train the model.
    """
    for slot in group.slots:
        if isinstance(slot.tensor, nn.Parameter) and not slot.tensor.requires_grad:
            return f"{slot.path!r} is frozen"
    return None if owner_of(group, optimizers) is not None else "its incoming weights belong to no optimizer"


def treatable(units: UnitMap, optimizers: Sequence[Optimizer], statistics: Sequence[Statistic]) -> UnitMap:
    """Return the map without the groups that must be left alone, which are listed as skipped, each with the reason.

    If nothing would be left, the map is returned whole, so that the engine refuses it and says why.

    Args:
        units: The units that were found.
        optimizers: The optimizers that train the model.
        statistics: What is measured of them.

    Returns:
        The units that can be treated.
    """
    whys = {group.name: why_not(group, optimizers) for group in units}
    reasons = {name: None if why is None else (why, "") for name, why in whys.items()}
    if observed(statistics):
        for group in units:
            if group.tap is None and reasons[group.name] is None:
                reasons[group.name] = _UNOBSERVED
    if all(reasons.values()):
        return units
    left_out = tuple(Skipped(name, *reason) for name, reason in reasons.items() if reason is not None)
    kept = tuple(group for group in units if reasons[group.name] is None)
    return replace(units, groups=kept, skipped=units.skipped + left_out)


def observed(statistics: Sequence[Statistic]) -> list[str]:
    """Return the names of the statistics that look at activations or their gradients."""
    return [type(each).__name__ for each in statistics if each.reads_activation or each.reads_gradient]


def checked_optimizers(optimizer: Optimizer | Sequence[Optimizer]) -> tuple[Optimizer, ...]:
    """Return the optimizers, unless something else was passed.

    Args:
        optimizer: What was passed as an optimizer, or as several.

    Raises:
        InvalidArgumentError: If it, or one of them, is none.
    """
    optimizers = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
    for each in optimizers:
        check_optimizer(each)
    return optimizers


def check_groups(groups: Sequence[UnitGroup], optimizers: Sequence[Optimizer], statistics: Sequence[Statistic]) -> None:
    """Refuse groups that cannot be treated.

    Args:
        groups: The groups.
        optimizers: The optimizers that train the model.
        statistics: What is measured of them.

    Raises:
        UnsupportedModelError: If a group is not trained, or cannot be observed, or there are several devices.
    """
    untrained = {group.name: reason for group in groups if (reason := why_not(group, optimizers)) is not None}
    if untrained:
        raise UnsupportedModelError(
            f"the units of {untrained} are not trained",
            "units whose weights are trained, the incoming ones by one of the optimizers",
            "Leave them out (`exclude=` of callbacks, `units.select(exclude=...)`), or train their weights",
        )
    devices = {str(slot.tensor.device) for group in groups for slot in group.slots}
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"units on several devices: {sorted(devices)}",
            "all units on one device",
            "Move the model to one device before the engine is built",
        )
    taps = [group.name for group in groups if group.tap is None]
    readers = observed(statistics)
    if taps and readers:
        raise UnsupportedModelError(
            f"the activations of {taps} are not an input or output of any module",
            f"units whose activation can be observed, as {readers[0]} does",
            "Leave them out (`exclude=` of callbacks, `units.select(exclude=...)`), or choose a utility of weights, "
            "such as WeightMagnitude()",
        )


def acting_after(optimizer: Optimizer) -> list[object]:
    """Return the objects whose methods, with some arguments filled in, are called after every step of an optimizer."""
    hooks = [hook for hook in optimizer._optimizer_step_post_hooks.values() if isinstance(hook, partial)]
    return [hook.func.__self__ for hook in hooks if isinstance(hook.func, MethodType)]


def refuse_overlap(groups: Sequence[UnitGroup], others: Iterable[Sequence[UnitGroup]]) -> None:
    """Refuse groups that other engines treat: their rates would add up, and neither knows what the other has replaced.

    Args:
        groups: The groups of an engine.
        others: Those of the engines that are attached.

    Raises:
        InvalidArgumentError: If a group is treated by another engine.
    """
    treated = {(group.name, group.incoming[0].tensor) for other in others for group in other}
    twice = [group.name for group in groups if (group.name, group.incoming[0].tensor) in treated]
    if twice:
        raise InvalidArgumentError(
            f"two engines that replace the units of {twice}",
            "one per unit, since neither knows the age of what the other has replaced",
            "Drop or detach one of them, or give each its own groups with `include` and `exclude`",
        )
