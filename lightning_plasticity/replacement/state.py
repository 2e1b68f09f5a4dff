"""Whether a saved state belongs to this model and this method: everything is compared before anything is taken over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lightning_plasticity.errors import StateMismatchError, check_entries
from lightning_plasticity.units import UnitGroup


def check_state(
    state: dict[str, Any], own: dict[str, Any], groups: Sequence[UnitGroup], optimizers: Sequence[object]
) -> None:
    """Refuse a state of another model or another method.

    Args:
        state: The saved state.
        own: The state of the engine that is to take it over.
        groups: The engine's groups.
        optimizers: The engine's optimizers.

    Raises:
        StateMismatchError: If groups, sizes, parts, remembered fields or the number of optimizers differ; all
            differences are named.
    """
    check_entries(state, "groups", "generator", "optimizers")
    saved: dict[str, Any] = state["groups"]
    problems = [f"it has no units of {group.name!r}" for group in groups if group.name not in saved]
    problems += [f"it has units of {name!r}, which are not treated here" for name in saved if name not in own["groups"]]
    for name in (group.name for group in groups if group.name in saved):
        problems += [f"{name!r}: {problem}" for problem in group_problems(saved[name], own["groups"][name])]
    count = len(state["optimizers"])
    if not problems and count != len(optimizers):
        problems.append(f"it has {count} optimizers for {[group.name for group in groups]}")
    if problems:
        raise StateMismatchError(
            f"the saved state is of another model or method: {'; '.join(problems)}",
            f"a state of { ({group.name: group.size for group in groups}) } and {len(optimizers)} optimizers",
            "Resume with the model, method, include and exclude that wrote the state, or do not load it",
        )


def group_problems(saved: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Return the differences between a saved state of a group and the engine's own, as phrases; empty if it fits.

    Args:
        saved: The saved state of the group.
        own: The engine's state of the group.
    """
    problems = []
    if len(saved["ages"]["born"]) != len(own["ages"]["born"]):
        problems.append(f"{len(saved['ages']['born'])} units instead of {len(own['ages']['born'])}")
    elif saved["parts"] != own["parts"]:
        problems.append(f"the parts {saved['parts']} instead of {own['parts']}")
    elif _shapes(saved["memory"]) != _shapes(own["memory"]):
        problems.append(f"the memory {_shapes(saved['memory'])} instead of {_shapes(own['memory'])}")
    elif [_shapes(held) for held in saved["held"]] != [_shapes(held) for held in own["held"]]:
        problems.append("other slots in what its edits hold")
    return problems


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def same_groups(groups: Iterable[UnitGroup], others: Iterable[UnitGroup]) -> bool:
    """Return whether two sequences of groups have the same names and live in the same tensors of the same model."""
    return [_address(group) for group in groups] == [_address(group) for group in others]


def _address(group: UnitGroup) -> tuple[object, ...]:
    tap = None if group.tap is None else id(group.tap.module)
    return (group.name, group.size, tap, *((slot.path, id(slot.tensor)) for slot in group.slots))
