"""Floor 3: methods of unit replacement, each a composition of parts."""

from lightning_plasticity.methods.continual_backprop import continual_backprop
from lightning_plasticity.methods.random_replacement import random_replacement
from lightning_plasticity.methods.redo import redo
from lightning_plasticity.methods.regrama import regrama
from lightning_plasticity.methods.self_normalized_resets import self_normalized_resets

__all__ = ["continual_backprop", "random_replacement", "redo", "regrama", "self_normalized_resets"]
