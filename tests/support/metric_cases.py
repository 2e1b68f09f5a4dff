"""Every metric of features or activations with its functional twin, and features to feed them."""

import torch

from lightning_plasticity import functional, metrics

# name: (class, functional twin, keyword arguments of both)
FEATURE_METRICS = {
    "effective_rank": (metrics.EffectiveRank, functional.effective_rank, {}),
    "effective_rank_centered": (metrics.EffectiveRank, functional.effective_rank, {"centered": True}),
    "rank_me": (metrics.RankMe, functional.rank_me, {}),
    "stable_rank": (metrics.StableRank, functional.stable_rank, {}),
    "participation_ratio": (metrics.ParticipationRatio, functional.participation_ratio, {"centered": True}),
    "approximate_rank": (metrics.ApproximateRank, functional.approximate_rank, {}),
    "approximate_rank_1": (metrics.ApproximateRank, functional.approximate_rank, {"power": 1}),
    "numerical_rank": (metrics.NumericalRank, functional.numerical_rank, {}),
    "numerical_rank_coarse": (metrics.NumericalRank, functional.numerical_rank, {"tolerance": 0.2}),
    "feature_rank": (metrics.FeatureRank, functional.feature_rank, {"epsilon": 0.5}),
    "dormant_unit_ratio": (metrics.DormantUnitRatio, functional.dormant_unit_ratio, {}),
    "dormant_unit_ratio_half": (metrics.DormantUnitRatio, functional.dormant_unit_ratio, {"threshold": 0.5}),
    "gradient_dormant_ratio": (metrics.GradientDormantRatio, functional.gradient_dormant_ratio, {"threshold": 0.4}),
    "dead_unit_ratio": (metrics.DeadUnitRatio, functional.dead_unit_ratio, {}),
    "dormant_by_frequency": (metrics.DormantByFrequency, functional.dormant_by_frequency, {"frequency": 0.3}),
    "active_fraction": (metrics.ActiveFraction, functional.active_fraction, {}),
    "saturated_unit_ratio": (metrics.SaturatedUnitRatio, functional.saturated_unit_ratio, {"frequency": 0.1}),
    "saturated_wide": (metrics.SaturatedUnitRatio, functional.saturated_unit_ratio, {"bounds": (0.0, 2.0)}),
    "duplicate_unit_ratio": (metrics.DuplicateUnitRatio, functional.duplicate_unit_ratio, {}),
}
SAMPLES, SIZE = 60, 10


def activations(samples=SAMPLES, size=SIZE, dtype=torch.float64, seed=0):
    """Return ReLU-like activations with a dead, a nearly dead, a rare, a saturated and a duplicate unit."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    x = (x @ torch.randn(size, size, dtype=torch.float64, generator=generator)).relu()
    x[:, 1] = 0
    x[:, 2] *= 1e-3
    x[5:, 3] = 0
    x[:, 4] = x[:, 4].gt(0).double()
    x[:, 5] = 3 * x[:, 6]
    return x.to(dtype)
