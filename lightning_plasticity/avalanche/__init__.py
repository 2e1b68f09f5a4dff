"""Floor 4: the engines as Avalanche plugins, and measures of plasticity as plugin metrics.

Needs the extra ``avalanche``; never imported by the root package.
"""

from lightning_plasticity.avalanche.continual_backprop import ContinualBackpropPlugin
from lightning_plasticity.avalanche.intransigence import intransigence_metrics
from lightning_plasticity.avalanche.metrics import (
    dormant_unit_ratio_metrics,
    effective_rank_metrics,
    weight_magnitude_metrics,
)
from lightning_plasticity.avalanche.redo import ReDoPlugin
from lightning_plasticity.avalanche.shrink_and_perturb import ShrinkAndPerturbPlugin
from lightning_plasticity.avalanche.unit_replacement import UnitReplacementPlugin
from lightning_plasticity.avalanche.upgd import UPGDPlugin

__all__ = [
    "ContinualBackpropPlugin",
    "ReDoPlugin",
    "ShrinkAndPerturbPlugin",
    "UPGDPlugin",
    "UnitReplacementPlugin",
    "dormant_unit_ratio_metrics",
    "effective_rank_metrics",
    "intransigence_metrics",
    "weight_magnitude_metrics",
]
