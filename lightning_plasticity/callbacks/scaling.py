"""What a gradient scaler (``precision="16-mixed"``) is about to do, for callbacks between backward pass and step."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import Optimizer

from lightning_plasticity.errors import UnsupportedOptimizerError


def scaler_of(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    """Return the gradient scaler of a Trainer, if it has one."""
    precision = trainer.strategy.precision_plugin
    return precision.scaler if isinstance(precision, MixedPrecision) else None


def will_be_skipped(trainer: pl.Trainer, optimizer: Optimizer) -> bool:
    """Return whether a gradient scaler is about to skip the step; only with a scaler the device is asked.

    Args:
        trainer: The Trainer.
        optimizer: The optimizer that is about to step.

    Returns:
        Whether a gradient is not finite.

    Raises:
        UnsupportedOptimizerError: If the optimizer unscales the gradients itself.
    """
    if scaler_of(trainer) is None:
        return False
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        raise UnsupportedOptimizerError(
            f"{type(optimizer).__name__} unscales the gradients itself (fused, with precision='16-mixed')",
            "gradients in their own scale before the step",
            "Pass fused=False to the optimizer, or train with precision='bf16-mixed'",
        )
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return bool(gradients) and not bool(torch.stack([g.isfinite().all() for g in gradients]).all())
