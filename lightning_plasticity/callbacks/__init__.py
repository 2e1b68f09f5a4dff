"""Floor 4: the engines' lifetime in a Lightning Trainer, one file per callback."""

from lightning_plasticity.callbacks.best_weights import BestWeights
from lightning_plasticity.callbacks.continual_backprop import ContinualBackprop
from lightning_plasticity.callbacks.layer_reset import FromScratch, LayerReset
from lightning_plasticity.callbacks.optimizer_reset import OptimizerReset
from lightning_plasticity.callbacks.plasticity_monitor import PlasticityMonitor
from lightning_plasticity.callbacks.random_replacement import RandomReplacement
from lightning_plasticity.callbacks.redo import ReDo
from lightning_plasticity.callbacks.regrama import ReGraMa
from lightning_plasticity.callbacks.regularization import (
    L1Regularization,
    L2Regularization,
    RegenerativeRegularization,
    ShrinkAndPerturb,
)
from lightning_plasticity.callbacks.schedule_restart import ScheduleRestart
from lightning_plasticity.callbacks.self_normalized_resets import SelfNormalizedResets
from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.callbacks.upgd import UPGDPerturbation

__all__ = [
    "BestWeights",
    "ContinualBackprop",
    "FromScratch",
    "L1Regularization",
    "L2Regularization",
    "LayerReset",
    "OptimizerReset",
    "PlasticityMonitor",
    "RandomReplacement",
    "ReDo",
    "ReGraMa",
    "RegenerativeRegularization",
    "ScheduleRestart",
    "SelfNormalizedResets",
    "ShrinkAndPerturb",
    "UPGDPerturbation",
    "UnitReplacement",
]
