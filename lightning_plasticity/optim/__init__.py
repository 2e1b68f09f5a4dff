"""Floor 2: UPGD as optimizers and as a gate in front of any optimizer, curvature, and decays."""

from lightning_plasticity.optim.gate import UtilityGate
from lightning_plasticity.optim.ggn import SampledGaussNewton
from lightning_plasticity.optim.hesscale import HesScale
from lightning_plasticity.optim.regularization import Decay
from lightning_plasticity.optim.shrink_perturb import ShrinkPerturb
from lightning_plasticity.optim.upgd import UPGD, AdaUPGD

__all__ = ["UPGD", "AdaUPGD", "Decay", "HesScale", "SampledGaussNewton", "ShrinkPerturb", "UtilityGate"]
