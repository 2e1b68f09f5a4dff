"""Floor 4: the engines' lifetime in a Lightning Trainer, one file per callback."""

from lightning_plasticity.callbacks.continual_backprop import ContinualBackprop
from lightning_plasticity.callbacks.plasticity_monitor import PlasticityMonitor
from lightning_plasticity.callbacks.random_replacement import RandomReplacement
from lightning_plasticity.callbacks.redo import ReDo
from lightning_plasticity.callbacks.regrama import ReGraMa
from lightning_plasticity.callbacks.self_normalized_resets import SelfNormalizedResets
from lightning_plasticity.callbacks.unit_replacement import UnitReplacement

__all__ = [
    "ContinualBackprop",
    "PlasticityMonitor",
    "RandomReplacement",
    "ReDo",
    "ReGraMa",
    "SelfNormalizedResets",
    "UnitReplacement",
]
