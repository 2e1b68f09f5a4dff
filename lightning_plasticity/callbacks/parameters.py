"""Choose parameters of a module by patterns of their names."""

from __future__ import annotations

from torch import Tensor, nn

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
