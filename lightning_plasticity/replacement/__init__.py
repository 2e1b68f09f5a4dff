"""Floor 2: the engine that replaces units, and the parts that methods are made of.

1. What a method is made of: ``method`` puts together one of the ``utilities``, a ``selection`` and ``edits`` (with
   ``initializers`` and ``mean_output``); a ``statistic`` is what is measured, in fields of the ``memory``.
2. What is seen between two steps: ``observation`` feeds the statistics, from a ``watch`` on every group's activation
   and from its ``outgoing`` weights; ``alarm`` notices when nothing is seen.
3. What happens after a step: ``replacer`` is the engine, ``treatment`` what it keeps of one group (with its ``ages``),
   ``optimizer`` what the optimizer has to forget, ``distributed`` how processes agree.
4. Around it: ``overrides`` (methods of single groups), ``refusals`` (what is not treated), ``state`` (what a checkpoint
   has to fit), ``observability`` and ``events`` (what can be seen from outside).
"""

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
from lightning_plasticity.replacement.optimizer import StatePolicy
from lightning_plasticity.replacement.replacer import UnitReplacer
from lightning_plasticity.replacement.selection import (
    AtMost,
    BernoulliLowestMature,
    LowestMature,
    RandomMature,
    Selection,
)
from lightning_plasticity.replacement.statistic import MeanActivation, Statistic
from lightning_plasticity.replacement.utilities import (
    ActivationOnly,
    AdaptableContribution,
    Adaptation,
    Contribution,
    DeviationByInput,
    Dormancy,
    Fisher,
    GradientMagnitude,
    GradientUtility,
    InterFiringTime,
    Random,
    Utility,
    WeightMagnitude,
    ZeroContribution,
)
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
