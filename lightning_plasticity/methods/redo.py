"""ReDo: recycle dormant units, whose activation is small relative to their layer's."""

from __future__ import annotations

from lightning_plasticity.replacement import (
    AtMost,
    Dormancy,
    Initializer,
    Method,
    RedrawIncoming,
    ResetNorms,
    StatePolicy,
    ZeroOutgoing,
)

PER_LAYER = ("threshold", "every_n_steps", "initializer")
"""The arguments that may differ between layers."""


def redo(
    threshold: float = 0.025,
    every_n_steps: int = 1000,
    *,
    initializer: Initializer | None = None,
    optimizer_state: StatePolicy = "fresh",
) -> Method:
    """Return ReDo.

    Args:
        threshold: A unit is dormant, and replaced, if its mean absolute activation is at most this share of its
            layer's; the paper uses 0.025 and, for large networks, 0.1. A silent layer is dormant as a whole.
        every_n_steps: Optimizer steps between two decisions, over which the activations are averaged.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"``, ``"zero"`` or
            ``"keep"``.

    Returns:
        The method.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Sokar et al., `The dormant neuron phenomenon in deep reinforcement learning` (ICML 2023), Algorithm 1. There the
        activations are those of one batch; here all since the last decision.

    Example:
        >>> redo(threshold=0.1).selection
        AtMost(threshold=0.1, maturity_threshold=0)
    """
    return Method(
        utility=Dormancy(),
        selection=AtMost(threshold),
        edits=(RedrawIncoming(initializer), ZeroOutgoing(), ResetNorms()),
        every_n_steps=every_n_steps,
        optimizer_state=optimizer_state,
    )
