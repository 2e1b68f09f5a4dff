"""Choose names by patterns with ``*`` and ``?`` as in file names: of groups, parameters or modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from lightning_plasticity.errors import InvalidArgumentError

Patterns = Sequence[str] | str | None
"""Several patterns, a single one, or None for all names."""


def as_patterns(argument: str, patterns: object, *, least: int = 1) -> tuple[str, ...] | None:
    """Return patterns as a tuple; a single one need not be in a list.

    Args:
        argument: The argument's name.
        patterns: Its value.
        least: How many patterns there have to be.

    Returns:
        The patterns; None for None.

    Raises:
        InvalidArgumentError: If it is something else, or has fewer.

    Example:
        >>> as_patterns("include", "encoder.*")
        ('encoder.*',)
    """
    if patterns is None:
        return None
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Sequence) else (None,)
    if len(found) < least or not all(isinstance(each, str) for each in found):
        raise InvalidArgumentError(
            f"{argument}={patterns!r}",
            "one or several patterns of dotted names, such as 'encoder.*'",
            f"Pass texts, or leave `{argument}` out",
        )
    return found


def include_exclude(include: object, exclude: object) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the patterns of two arguments of these names; only ``exclude`` may hold none.

    Args:
        include: The value of the one.
        exclude: The value of the other.

    Raises:
        InvalidArgumentError: If one is something else.
    """
    return as_patterns("include", include), as_patterns("exclude", exclude, least=0)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(
    argument: str, patterns: Iterable[str], names: Sequence[str], kind: str, reasons: Mapping[str, str] | None = None
) -> None:
    """Refuse patterns that match nothing.

    Args:
        argument: The name of the argument that holds them.
        patterns: The patterns.
        names: What can be matched.
        kind: What the names stand for, such as ``"unit group"``.
        reasons: Why other names, which a pattern may mean, cannot be matched.

    Raises:
        InvalidArgumentError: If a pattern matches none of the names.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            meant = [f"{name!r}: {why}" for name, why in (reasons or {}).items() if fnmatchcase(name, pattern)]
            raise InvalidArgumentError(
                f"pattern {pattern!r} in `{argument}` matches no {kind}" + f" ({'; '.join(meant)})" * bool(meant),
                f"a pattern that matches one of {list(names)}",
                "Correct the pattern",
            )


def chosen_names(
    names: Sequence[str], include: Patterns, exclude: Patterns, kind: str, reasons: Mapping[str, str] | None = None
) -> list[str]:
    """Return the names that match.

    Args:
        names: The names.
        include: Patterns; None includes all.
        exclude: Patterns of names to leave out; they win over ``include``.
        kind: What the names stand for, such as ``"unit group"``.
        reasons: Why there are no other names that a pattern may mean.

    Returns:
        The chosen names, in their order.

    Raises:
        InvalidArgumentError: If a pattern is none or matches nothing, or nothing is left.

    Example:
        >>> chosen_names(["0.weight", "0.bias"], None, "*.bias", "parameter")
        ['0.weight']
    """
    included, excluded = include_exclude(include, exclude)
    check_patterns("include", included or (), names, kind, reasons)
    check_patterns("exclude", excluded or (), names, kind, reasons)
    chosen = [n for n in names if (included is None or matches(n, included)) and not matches(n, excluded or ())]
    if names and not chosen:
        raise InvalidArgumentError(
            f"include={include!r} and exclude={exclude!r}, which leave no {kind}",
            f"patterns that leave some of {list(names)}",
            "Correct the patterns in `include` or `exclude`",
        )
    return chosen
