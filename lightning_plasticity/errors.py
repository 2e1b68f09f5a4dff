"""The errors of this library: what was found, what was expected, what to do. And the checks of arguments.

Every one of the errors is a :class:`ValueError`, so that code which guards against bad input in general keeps working.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import cast

from torch.nn import Module
from torch.optim import Optimizer


class PlasticityError(ValueError):
    """Base of the refusals of this library; its message has three parts.

    Args:
        found: What was found, with the dotted name of the layer and the offending value.
        expected: What was expected instead.
        remedy: What the user can do about it.

    Example:
        >>> print(UnsupportedModelError("'net.0' is a GRU", "units that are used once per step", "Exclude it."))
        Found: 'net.0' is a GRU. Expected: units that are used once per step. Remedy: Exclude it.
    """

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = (part.strip().rstrip(".") for part in (found, expected, remedy))
        end = "\n" if "\n" in self.found else ". "  # a table stands alone
        stop = "" if self.remedy.endswith("?") else "."
        super().__init__(f"Found: {self.found}{end}Expected: {self.expected}. Remedy: {self.remedy}{stop}")

    def __reduce__(self) -> tuple[type[PlasticityError], tuple[str, str, str]]:
        return type(self), (self.found, self.expected, self.remedy)


class UnsupportedModelError(PlasticityError):
    """The model, or a part of it, has no units that can be treated safely."""


class UnsupportedOptimizerError(PlasticityError):
    """The optimizer keeps state, or steps, in a way that cannot be honoured."""


class UnsupportedStrategyError(PlasticityError):
    """The Trainer's strategy or precision shards or hides what has to be changed."""


class StateMismatchError(PlasticityError):
    """A saved state belongs to another model or another method."""


class InvalidArgumentError(PlasticityError):
    """An argument has a value outside its range."""


class UnknownGroupError(PlasticityError, KeyError):
    """A unit map has no group of this name."""

    __str__ = ValueError.__str__  # a KeyError would show its text in quotes


def shortened(names: Sequence[object], most: int = 12) -> str:
    """Return names for a message, in brackets: all of them, or the first and the last of many.

    Args:
        names: The names.
        most: How many are listed.

    Example:
        >>> shortened(["0", "2"]), shortened(range(20), most=3)
        ("['0', '2']", '[0, 1, ..., 19] (20 in all)')
    """
    if len(names) <= most:
        return str([*names])
    first = ", ".join(map(repr, names[: most - 1]))
    return f"[{first}, ..., {names[-1]!r}] ({len(names)} in all)"


def check_number(
    name: str, value: object, interval: str, *, whole: bool = False, meaning: str = "", remedy: str = ""
) -> None:
    """Refuse an argument that is no number, or one outside of an interval; truth values and NaN are no numbers.

    Args:
        name: The argument's name.
        value: Its value.
        interval: Where it has to lie, such as ``"[0, 1)"``; ``inf`` is a bound like any other.
        whole: Whether only whole numbers will do.
        meaning: What the number stands for.
        remedy: What to do about it; by default to correct the argument.

    Raises:
        InvalidArgumentError: If it is refused; of a text that says a number, with how to write that number.

    Example:
        >>> check_number("decay_rate", 0.9, "[0, 1)")
        >>> check_number("decay_rate", 1.5, "[0, 1)")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        InvalidArgumentError: Found: decay_rate=1.5. Expected: a number in [0, 1). Remedy: Correct `decay_rate`.
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (is_number and _contains(interval, cast("float", value))):
        noun = f"a {'whole ' * whole}number in {interval}"
        remedy = _as_number(name, value) or remedy or f"Correct `{name}`"
        raise InvalidArgumentError(f"{name}={value!r}", f"{noun}: {meaning}" if meaning else noun, remedy)


def _as_number(name: str, value: object) -> str:
    """Return what to do about a number that was passed as a text, such as YAML's ``1e-3``; empty if it is none."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    if not (isinstance(value, str) and math.isfinite(number)):
        return ""
    written = str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    mantissa, has_exponent, exponent = value.lower().partition("e")
    if not has_exponent:
        return f"Pass a number, `{name}={written}`; in YAML, without quotes"
    pointed = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{'' if exponent[0] in '+-' else '+'}{exponent}"
    choice = pointed if "e" in written else f"{written} or {pointed}"
    return f"Pass a number, `{name}={written}`; in YAML write {choice}, where {value} is a text"


def _contains(interval: str, value: float) -> bool:
    low, high = _bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


@cache  # UPGD checks its settings at every step, since schedules write into parameter groups
def _bounds(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def check_counts(**counts: object) -> None:
    """Refuse what is no whole number of at least 1.

    Args:
        **counts: Arguments by name; None is let through.

    Raises:
        InvalidArgumentError: If one is refused.
    """
    for name, count in counts.items():
        if count is not None:
            check_number(name, count, "[1, inf)", whole=True)


def check_seed(seed: object) -> None:
    """Refuse a seed that is neither None nor a whole number of at least 0.

    Args:
        seed: The value of the argument ``seed``.

    Raises:
        InvalidArgumentError: If it is refused.
    """
    if seed is not None:
        check_number("seed", seed, "[0, inf)", whole=True, remedy="Pass another `seed`, or None for PyTorch's own")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument that is none of the choices.

    Args:
        name: The argument's name.
        value: Its value.
        choices: What it can be, two at least.

    Raises:
        InvalidArgumentError: If it is refused.

    Example:
        >>> check_choice("scaling", "global", ["global", "local"])
    """
    if value not in choices:
        *most, last = map(repr, choices)
        raise InvalidArgumentError(f"{name}={value!r}", f"{', '.join(most)} or {last}", f"Correct `{name}`")


def check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False.

    Args:
        **flags: Arguments by name.

    Raises:
        InvalidArgumentError: If one is refused.

    Example:
        >>> check_flags(protecting=True)
        >>> check_flags(protecting="no")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        InvalidArgumentError: Found: protecting='no'. Expected: True or False. Remedy: Correct `protecting`.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise InvalidArgumentError(f"{name}={flag!r}", "True or False", f"Correct `{name}`")


def check_mapping(name: str, value: object, kind: str) -> None:
    """Refuse what is neither None nor a mapping from patterns.

    Args:
        name: The argument's name.
        value: Its value.
        kind: What the patterns stand for.

    Raises:
        InvalidArgumentError: If it is refused.
    """
    if value is not None and not isinstance(value, Mapping):
        raise InvalidArgumentError(
            f"{name}={value!r}", f"{kind} by pattern of group names", "Pass a dictionary such as {'encoder.*': ...}"
        )


def check_module(model: object) -> None:
    """Refuse a model that is none.

    Args:
        model: The value of the argument ``model``.

    Raises:
        InvalidArgumentError: If it is refused.
    """
    if not isinstance(model, Module):
        raise InvalidArgumentError(
            f"model of type {type(model).__name__}", "an nn.Module", "Pass the model itself, an instance of its class"
        )


def check_entries(state: object, *entries: str, remedy: str = "") -> None:
    """Refuse a saved state that is none, or lacks an entry.

    Args:
        state: What was passed to ``load_state_dict``.
        entries: The entries it must have.
        remedy: What to do about it; by default to load what the same class has saved.

    Raises:
        StateMismatchError: If it is refused.

    Example:
        >>> check_entries({"noise": 0, "weights": 1}, "noise")
    """
    known = list(state) if isinstance(state, Mapping) else None
    if known is None or not set(entries) <= set(known):
        entries_found = "" if known is None else f"a saved state with the entries {shortened(known)}"
        raise StateMismatchError(
            entries_found or f"a state of type {type(state).__name__}",
            f"one with the entries {list(entries)}",
            remedy or "Load what `state_dict()` of the same class has returned, or start afresh",
        )


def check_optimizer(optimizer: object) -> None:
    """Refuse an optimizer that is none.

    Args:
        optimizer: The value of the argument ``optimizer``.

    Raises:
        InvalidArgumentError: If it is refused.
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidArgumentError(
            f"an optimizer of type {type(optimizer).__name__}",
            "a torch.optim.Optimizer",
            "Build one of the model's parameters, such as torch.optim.SGD(model.parameters(), lr=0.01), and pass it",
        )
