"""Floor 0: formulas, tensors in and tensors out."""

from lightning_plasticity.functional.dormancy import dormant_unit_ratio, dormant_units, unit_scores
from lightning_plasticity.functional.rank import effective_rank
from lightning_plasticity.functional.weights import weight_magnitude

__all__ = ["dormant_unit_ratio", "dormant_units", "effective_rank", "unit_scores", "weight_magnitude"]
