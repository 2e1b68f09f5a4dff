"""The settings of UPGD: how utilities become a gate, and how strong the noise is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_plasticity.errors import check_choice, check_flags, check_number

Scaling = Literal["global", "local", "abs", "none"]
Correction = Literal["paper", "reference"]


@dataclass(frozen=True)
class Perturbation:
    """How utilities become a gate, and how strong the noise is.

    Args:
        noise_std: Standard deviation of the noise, on the scale of the gradient; 0 draws none.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        scaling: What a utility is divided by: the largest of all weights (``"global"``), the norm over the incoming
            weights of the same unit (``"local"``), or the largest absolute value of all weights (``"abs"``).
            ``"none"`` leaves utilities out: everything passes with noise, as in perturbed gradient descent.
        correction: ``"paper"`` corrects both the utility and its divisor for the start of the running average;
            ``"reference"`` only the utility, as the published code does: then for about ``1 / (1 - decay_rate)`` steps
            the gate is nearly 0 or 1. Without effect on ``"local"``, apart from convolutions (see ``utility_norm``).
        protecting: Whether the gate also holds back the gradient, or only the noise.
        gate_scale: Factor of the gate: 1 gives a weight of no utility half a step, 2 a whole one.

    Raises:
        InvalidArgumentError: If a value is outside its range.

    Example:
        >>> Perturbation(noise_std=0.01).scaling
        'global'
    """

    noise_std: float = 1e-3
    decay_rate: float = 0.999
    scaling: Scaling = "global"
    correction: Correction = "paper"
    protecting: bool = True
    gate_scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("noise_std", self.noise_std, "[0, inf)")
        check_number("decay_rate", self.decay_rate, "[0, 1)")
        check_choice("scaling", self.scaling, get_args(Scaling))
        check_choice("correction", self.correction, get_args(Correction))
        check_flags(protecting=self.protecting)
        check_number("gate_scale", self.gate_scale, "(0, inf)")
