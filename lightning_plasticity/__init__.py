"""Keep neural networks able to learn: Continual Backprop, UPGD and plasticity metrics for any LightningModule."""

from lightning_plasticity.callbacks import (
    BestWeights,
    ContinualBackprop,
    FromScratch,
    L1Regularization,
    L2Regularization,
    LayerReset,
    OptimizerReset,
    PlasticityMonitor,
    RandomReplacement,
    ReDo,
    RegenerativeRegularization,
    ReGraMa,
    ScheduleRestart,
    SelfNormalizedResets,
    ShrinkAndPerturb,
    UnitReplacement,
    UPGDPerturbation,
)
from lightning_plasticity.optim import UtilityGate
from lightning_plasticity.replacement import Method, ReplacementEvent, UnitReplacer
from lightning_plasticity.units import Slot, UnitGroup, UnitMap, discover_units, verify_units

__version__ = "0.1.0"

__all__ = [
    "BestWeights",
    "ContinualBackprop",
    "FromScratch",
    "L1Regularization",
    "L2Regularization",
    "LayerReset",
    "Method",
    "OptimizerReset",
    "PlasticityMonitor",
    "RandomReplacement",
    "ReDo",
    "ReGraMa",
    "RegenerativeRegularization",
    "ReplacementEvent",
    "ScheduleRestart",
    "SelfNormalizedResets",
    "ShrinkAndPerturb",
    "Slot",
    "UPGDPerturbation",
    "UnitGroup",
    "UnitMap",
    "UnitReplacement",
    "UnitReplacer",
    "UtilityGate",
    "discover_units",
    "verify_units",
]
