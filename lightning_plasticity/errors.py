"""The errors of this library: what was found, what was expected, what to do.

Every one of them is a :class:`ValueError`, so that code which guards against bad input in general keeps working.
"""

from __future__ import annotations


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
        super().__init__(f"Found: {self.found}{end}Expected: {self.expected}. Remedy: {self.remedy}.")

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
