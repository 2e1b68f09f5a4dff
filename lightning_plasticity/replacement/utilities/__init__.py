"""What a unit is worth: ``utility`` says what a utility is, every other file holds those of one kind.

``contribution`` and ``activation`` look at activations and the weights that read them, ``weight`` at weights alone,
``gradient`` at the change of the loss, ``relative`` at the share of the layer's mean since the last decision,
``firing`` at how long a unit has been silent. ``magnitudes`` are the weights they have in common.
"""

from lightning_plasticity.replacement.utilities.activation import (
    ActivationOnly,
    AdaptableContribution,
    DeviationByInput,
    ZeroContribution,
)
from lightning_plasticity.replacement.utilities.contribution import Contribution
from lightning_plasticity.replacement.utilities.firing import InterFiringTime
from lightning_plasticity.replacement.utilities.gradient import Fisher, GradientUtility
from lightning_plasticity.replacement.utilities.relative import Dormancy, GradientMagnitude
from lightning_plasticity.replacement.utilities.utility import Utility
from lightning_plasticity.replacement.utilities.weight import Adaptation, Random, WeightMagnitude

__all__ = [
    "ActivationOnly",
    "AdaptableContribution",
    "Adaptation",
    "Contribution",
    "DeviationByInput",
    "Dormancy",
    "Fisher",
    "GradientMagnitude",
    "GradientUtility",
    "InterFiringTime",
    "Random",
    "Utility",
    "WeightMagnitude",
    "ZeroContribution",
]
