"""Self-Normalized Resets: replace a unit when it has been silent for longer than its own past explains."""

from __future__ import annotations

from lightning_plasticity.replacement import (
    AtMost,
    Initializer,
    InterFiringTime,
    Method,
    RedrawIncoming,
    ResetNorms,
    StatePolicy,
    ZeroOutgoing,
)

PER_LAYER = ("rejection_rate", "every_n_steps", "initializer")
"""The arguments that may differ between layers."""


def self_normalized_resets(
    rejection_rate: float = 0.01,
    every_n_steps: int = 1,
    *,
    firing_threshold: float = 0.0,
    prior_weight: float = 100.0,
    initializer: Initializer | None = None,
    optimizer_state: StatePolicy = "fresh",
) -> Method:
    r"""Return Self-Normalized Resets.

    Args:
        rejection_rate: A unit is replaced when its silence has reached the ``1 - rejection_rate`` quantile of its own
            inter-firing times: about the chance of replacing a healthy unit at a silence.
        every_n_steps: Optimizer steps between two decisions.
        firing_threshold: A unit fires in a step when the magnitude of one of its activations exceeds this.
        prior_weight: How many firings the inter-firing times of the whole layer count for in judging a unit.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"``, ``"zero"`` or
            ``"keep"``.

    Returns:
        The method.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Farias and Jozefiak, `Self-normalized resets for plasticity in continual learning` (ICLR 2025), Algorithm 1; see
        :class:`~lightning_plasticity.replacement.InterFiringTime` for how the quantile is estimated here.

    Example:
        >>> self_normalized_resets(rejection_rate=0.02).selection
        AtMost(threshold=0.02, maturity_threshold=0)
    """
    return Method(
        utility=InterFiringTime(firing_threshold, prior_weight),
        selection=AtMost(rejection_rate),
        edits=(RedrawIncoming(initializer), ZeroOutgoing(), ResetNorms()),
        every_n_steps=every_n_steps,
        optimizer_state=optimizer_state,
    )
