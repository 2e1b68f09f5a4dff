"""Which parameters are treated: those chosen by name, or given; and a warning if none of them is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_plasticity.errors import InvalidArgumentError
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
