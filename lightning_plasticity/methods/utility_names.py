"""The utilities of Continual Backprop by name, for constructors that a config file calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement import (
    ActivationOnly,
    AdaptableContribution,
    Adaptation,
    Contribution,
    DeviationByInput,
    Fisher,
    GradientUtility,
    Random,
    Utility,
    WeightMagnitude,
    ZeroContribution,
)

UtilityName = Literal[
    "contribution",
    "zero_contribution",
    "adaptable_contribution",
    "adaptation",
    "weight_magnitude",
    "activation",
    "deviation_by_input",
    "gradient",
    "fisher",
    "random",
]
_UTILITIES: dict[str, Callable[[float], Utility]] = {
    "contribution": Contribution,
    "zero_contribution": ZeroContribution,
    "adaptable_contribution": AdaptableContribution,
    "adaptation": Adaptation,
    "weight_magnitude": WeightMagnitude,
    "activation": ActivationOnly,
    "deviation_by_input": DeviationByInput,
    "gradient": GradientUtility,
    "fisher": Fisher,
}


def utility_named(name: str, decay_rate: float) -> Utility:
    """Return a utility by its name.

    Args:
        name: The name.
        decay_rate: Decay of its running average, in ``[0, 1)``; of no effect on ``"random"``.

    Returns:
        The utility.

    Raises:
        InvalidArgumentError: If there is none of that name.

    Example:
        >>> utility_named("weight_magnitude", 0.9)
        WeightMagnitude(decay_rate=0.9)
    """
    if name == "random":
        return Random()
    if name not in _UTILITIES:
        raise InvalidArgumentError(
            f"utility={name!r}",
            f"one of {sorted([*_UTILITIES, 'random'])}",
            "Choose one of them, or hand the method continual_backprop(utility=...) with your own to UnitReplacement",
        )
    return _UTILITIES[name](decay_rate)
