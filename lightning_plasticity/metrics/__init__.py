"""Floor 1: the measures of :mod:`lightning_plasticity.functional` as torchmetrics, one class each."""

from lightning_plasticity.metrics.activity import (
    ActiveFraction,
    DormantByFrequency,
    DuplicateUnitRatio,
    SaturatedUnitRatio,
)
from lightning_plasticity.metrics.continual import (
    AccuracyMatrix,
    AverageAccuracy,
    BackwardTransfer,
    Forgetting,
    ForwardTransfer,
    Intransigence,
    RelativeAccuracy,
)
from lightning_plasticity.metrics.dormancy import DeadUnitRatio, DormantUnitRatio, GradientDormantRatio
from lightning_plasticity.metrics.online import AreaUnderCurve, OnlineAccuracy
from lightning_plasticity.metrics.plasticity import SamplePlasticity
from lightning_plasticity.metrics.rank import (
    ApproximateRank,
    EffectiveRank,
    FeatureRank,
    NumericalRank,
    ParticipationRatio,
    RankMe,
    StableRank,
)
from lightning_plasticity.metrics.weights import (
    DistanceFromInitialization,
    GradientNorm,
    OptimizerStateNorm,
    SpectralNorm,
    UpdateRatio,
    WeightEffectiveRank,
    WeightMagnitude,
    WeightNorm,
    ZeroGradientShare,
)

__all__ = [
    "AccuracyMatrix",
    "ActiveFraction",
    "ApproximateRank",
    "AreaUnderCurve",
    "AverageAccuracy",
    "BackwardTransfer",
    "DeadUnitRatio",
    "DistanceFromInitialization",
    "DormantByFrequency",
    "DormantUnitRatio",
    "DuplicateUnitRatio",
    "EffectiveRank",
    "FeatureRank",
    "Forgetting",
    "ForwardTransfer",
    "GradientDormantRatio",
    "GradientNorm",
    "Intransigence",
    "NumericalRank",
    "OnlineAccuracy",
    "OptimizerStateNorm",
    "ParticipationRatio",
    "RankMe",
    "RelativeAccuracy",
    "SamplePlasticity",
    "SaturatedUnitRatio",
    "SpectralNorm",
    "StableRank",
    "UpdateRatio",
    "WeightEffectiveRank",
    "WeightMagnitude",
    "WeightNorm",
    "ZeroGradientShare",
]
