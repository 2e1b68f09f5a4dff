"""Keep neural networks able to learn: Continual Backprop, UPGD and plasticity metrics for any LightningModule."""

from lightning_plasticity.callbacks import (
    ContinualBackprop,
    PlasticityMonitor,
    RandomReplacement,
    ReDo,
    ReGraMa,
    SelfNormalizedResets,
    UnitReplacement,
)
from lightning_plasticity.replacement import Method, UnitReplacer
from lightning_plasticity.units import Slot, UnitGroup, UnitMap, discover_units, verify_units

__version__ = "0.1.0"

__all__ = [
    "ContinualBackprop",
    "Method",
    "PlasticityMonitor",
    "RandomReplacement",
    "ReDo",
    "ReGraMa",
    "SelfNormalizedResets",
    "Slot",
    "UnitGroup",
    "UnitMap",
    "UnitReplacement",
    "UnitReplacer",
    "discover_units",
    "verify_units",
]
