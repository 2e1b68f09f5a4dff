"""Floor 1: the measures of :mod:`lightning_plasticity.functional` as torchmetrics, one class each."""

from lightning_plasticity.metrics.dormancy import DormantUnitRatio
from lightning_plasticity.metrics.rank import EffectiveRank
from lightning_plasticity.metrics.weights import WeightMagnitude

__all__ = ["DormantUnitRatio", "EffectiveRank", "WeightMagnitude"]
