"""Choose parameters of a module by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lightning_plasticity.errors import InvalidArgumentError


def choose_parameters(
    module: nn.Module, include: Sequence[str] | str | None = None, exclude: Sequence[str] | str | None = None
) -> dict[Tensor, str]:
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
    include = (include,) if isinstance(include, str) else include
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    names = {parameter: name for name, parameter in module.named_parameters()}
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(fnmatchcase(name, pattern) for name in names.values()):
            raise InvalidArgumentError(
                f"pattern {pattern!r} matches no parameter",
                f"a pattern that matches one of {list(names.values())}",
                "Correct the pattern in `include` or `exclude`",
            )

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    chosen: dict[Tensor, str] = {
        parameter: name
        for parameter, name in names.items()
        if (include is None or matches(name, include)) and not matches(name, exclude or ())
    }
    if names and not chosen:
        raise InvalidArgumentError(
            f"include={include!r} and exclude={exclude!r}, which leave no parameter",
            f"patterns that leave some of {list(names.values())}",
            "Correct the patterns in `include` or `exclude`",
        )
    return chosen
