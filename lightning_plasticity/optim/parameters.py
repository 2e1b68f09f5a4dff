"""Which parameters are treated: those chosen by name, or given; and a warning if none of them is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError
from lightning_plasticity.units.patterns import Patterns, chosen_names


def choose_parameters(module: nn.Module, include: Patterns = None, exclude: Patterns = None) -> dict[Tensor, str]:
    """Return the parameters whose dotted names match, with their names.

    Args:
        module: The module.
        include: Patterns with ``*`` and ``?`` as in file names, such as ``"*.weight"``; None includes all.
        exclude: Patterns of parameters to leave out; they win over ``include``. A single pattern need not be in a list.

    Returns:
        The names by parameter, in the order of the module.

    Raises:
        InvalidArgumentError: If a pattern matches no parameter, or nothing is left.

    Example:
        >>> list(choose_parameters(nn.Linear(2, 3), exclude=["bias"]).values())
        ['weight']
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    chosen = set(chosen_names(list(names.values()), include, exclude, "parameter"))
    return {parameter: name for parameter, name in names.items() if name in chosen}


def warn_untrained(who: str, chosen: Mapping[Tensor, str], optimizers: Sequence[Optimizer] | None = None) -> None:
    """Warn if nothing will happen as things are, since all that was chosen is frozen or left out of the optimizers.

    Not an error, since layers may thaw while the model trains.

    Args:
        who: Name of the callback or plugin that has chosen.
        chosen: The names of the parameters that it treats.
        optimizers: The optimizers on whose steps it acts; None if it needs none.
    """
    groups = [group for optimizer in optimizers or () for group in optimizer.param_groups]
    owned = set(chosen) if optimizers is None else {parameter for group in groups for parameter in group["params"]}
    if chosen and not any(parameter.requires_grad and parameter in owned for parameter in chosen):
        warnings.warn(
            f"{who} has nothing to do as things are: {list(chosen.values())} are frozen or belong to no optimizer. "
            "Train them, or correct `include` and `exclude`.",
            stacklevel=2,
        )


def check_shapes(what: str, saved: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> None:
    """Refuse saved tensors that are not of these parameters, as far as number and shapes tell.

    Args:
        what: What was saved of every parameter.
        saved: The tensors, in the order of the parameters; None where there was nothing to save.
        parameters: The parameters.

    Raises:
        StateMismatchError: If they differ in number, or one of them in its shape.
    """
    remedy = "Resume with the model, the optimizer and the patterns that wrote the state, or drop it"
    if len(saved) != len(parameters):
        raise StateMismatchError(
            f"saved {what} of {len(saved)} parameters", f"those of the {len(parameters)} that are treated here", remedy
        )
    shapes = [(i, s.shape, p.shape) for i, (s, p) in enumerate(zip(saved, parameters, strict=True)) if s is not None]
    differences = [f"parameter {i} was {list(was)} and is {list(now)}" for i, was, now in shapes if was != now]
    if differences:
        raise StateMismatchError(
            f"saved {what} of other parameters: {', '.join(differences[:3])}{', ...' * (len(differences) > 3)}",
            "those of the parameters that are treated here, in their order",
            remedy,
        )


def checked_parameters(parameters: object) -> list[Tensor] | None:
    """Return parameters in a list; None for None, which means all.

    Args:
        parameters: The value of the argument ``parameters``.

    Raises:
        InvalidArgumentError: If it holds no parameter, or something else.
    """
    if parameters is None:
        return None
    is_several = isinstance(parameters, Iterable) and not isinstance(parameters, Tensor)
    found: list[Any] = [*parameters] if is_several else []  # type: ignore[misc]
    strangers = [each for each in found if not isinstance(each, Tensor)]
    if strangers or not found:
        of_type = "parameters without any" if is_several else f"parameters of type {type(parameters).__name__}"
        raise InvalidArgumentError(
            f"parameters with {strangers[0]!r} among them" if strangers else of_type,
            "tensors, such as `model.parameters()`",
            "Pass the parameters themselves, in a list; None takes all",
        )
    return found
