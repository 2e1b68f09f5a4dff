"""ReGraMa: recycle units whose gradient is small relative to their layer's."""

from __future__ import annotations

from lightning_plasticity.replacement import (
    AtMost,
    GradientMagnitude,
    Initializer,
    Method,
    RedrawIncoming,
    ResetNorms,
    StatePolicy,
    ZeroOutgoing,
)

PER_LAYER = ("threshold", "every_n_steps", "initializer")
"""The arguments that may differ between layers."""


def regrama(
    threshold: float = 0.025,
    every_n_steps: int = 1000,
    *,
    initializer: Initializer | None = None,
    optimizer_state: StatePolicy = "fresh",
) -> Method:
    """Return ReGraMa, reset guided by gradient magnitude.

    Args:
        threshold: A unit is replaced if the mean absolute gradient of its activation is at most this share of its
            layer's.
        every_n_steps: Optimizer steps between two decisions, over which the gradients are averaged.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"``, ``"zero"`` or
            ``"keep"``.

    Returns:
        The method.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Liu et al., `Measure gradients, not activations` (arXiv 2505.24061). There the gradients are those of one batch;
        here all since the last decision. Outgoing weights of 0 leave a new unit without a gradient in its first step,
        so it is protected for that step.

    Example:
        >>> regrama(every_n_steps=500).utility
        GradientMagnitude()
    """
    return Method(
        utility=GradientMagnitude(),
        selection=AtMost(threshold, maturity_threshold=1),
        edits=(RedrawIncoming(initializer), ZeroOutgoing(), ResetNorms()),
        every_n_steps=every_n_steps,
        optimizer_state=optimizer_state,
    )
