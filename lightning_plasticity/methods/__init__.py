"""Floor 3: methods of unit replacement, each a composition of parts."""

from lightning_plasticity.methods.continual_backprop import continual_backprop

__all__ = ["continual_backprop"]
