"""What an optimizer knows of replaced units: ``memory`` makes it forget, ``young_entries`` lets them move as if new.

``young_rules`` holds the update rules, one per optimizer with a bias correction, that the latter has to undo.
"""

from lightning_plasticity.replacement.optimizer.memory import OptimizerMemory, StatePolicy, per_element

__all__ = ["OptimizerMemory", "StatePolicy", "per_element"]
