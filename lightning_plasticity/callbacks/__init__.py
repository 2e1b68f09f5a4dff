"""Floor 4: the engines' lifetime in a Lightning Trainer, one file per callback."""

from lightning_plasticity.callbacks.continual_backprop import ContinualBackprop
from lightning_plasticity.callbacks.plasticity_monitor import PlasticityMonitor
from lightning_plasticity.callbacks.unit_replacement import UnitReplacement

__all__ = ["ContinualBackprop", "PlasticityMonitor", "UnitReplacement"]
