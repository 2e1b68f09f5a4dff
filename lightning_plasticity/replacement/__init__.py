"""Floor 2: the engine that replaces units, and the parts that methods are made of."""

from lightning_plasticity.replacement.edits import (
    CloneBest,
    Edit,
    Initializer,
    RedrawIncoming,
    Replacement,
    ResetNorms,
    RewindIncoming,
    ZeroOutgoing,
)
from lightning_plasticity.replacement.events import Listener, ReplacementEvent
from lightning_plasticity.replacement.mean_output import KeepMeanOutput
from lightning_plasticity.replacement.memory import Field, Memory
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.optimizer_state import StatePolicy
from lightning_plasticity.replacement.replacer import UnitReplacer
from lightning_plasticity.replacement.selection import (
    AtMost,
    BernoulliLowestMature,
    LowestMature,
    RandomMature,
    Selection,
)
from lightning_plasticity.replacement.statistic import MeanActivation, Statistic
from lightning_plasticity.replacement.utility import Contribution, Utility
from lightning_plasticity.replacement.utility_activation import (
    ActivationOnly,
    AdaptableContribution,
    DeviationByInput,
    ZeroContribution,
)
from lightning_plasticity.replacement.utility_firing import InterFiringTime
from lightning_plasticity.replacement.utility_gradient import Fisher, GradientUtility
from lightning_plasticity.replacement.utility_relative import Dormancy, GradientMagnitude
from lightning_plasticity.replacement.utility_weight import Adaptation, Random, WeightMagnitude
from lightning_plasticity.replacement.watch import Reading

__all__ = [
    "ActivationOnly",
    "AdaptableContribution",
    "Adaptation",
    "AtMost",
    "BernoulliLowestMature",
    "CloneBest",
    "Contribution",
    "DeviationByInput",
    "Dormancy",
    "Edit",
    "Field",
    "Fisher",
    "GradientMagnitude",
    "GradientUtility",
    "Initializer",
    "InterFiringTime",
    "KeepMeanOutput",
    "Listener",
    "LowestMature",
    "MeanActivation",
    "Memory",
    "Method",
    "Random",
    "RandomMature",
    "Reading",
    "RedrawIncoming",
    "Replacement",
    "ReplacementEvent",
    "ResetNorms",
    "RewindIncoming",
    "Selection",
    "StatePolicy",
    "Statistic",
    "UnitReplacer",
    "Utility",
    "WeightMagnitude",
    "ZeroContribution",
    "ZeroOutgoing",
]
