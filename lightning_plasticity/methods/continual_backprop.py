"""Continual Backprop: replace a small fraction of the least useful mature units at every step."""

from __future__ import annotations

from lightning_plasticity.errors import check_flags
from lightning_plasticity.replacement import (
    Contribution,
    Edit,
    Initializer,
    KeepMeanOutput,
    LowestMature,
    Method,
    RedrawIncoming,
    ResetNorms,
    StatePolicy,
    Utility,
    ZeroOutgoing,
)

PER_LAYER = ("replacement_rate", "maturity_threshold", "initializer", "keep_mean_output")
"""The arguments that may differ between layers."""


def continual_backprop(
    replacement_rate: float = 1e-4,
    maturity_threshold: int = 100,
    decay_rate: float = 0.99,
    *,
    utility: Utility | None = None,
    initializer: Initializer | None = None,
    keep_mean_output: bool = False,
    optimizer_state: StatePolicy = "fresh",
) -> Method:
    """Return Continual Backprop.

    Args:
        replacement_rate: Fraction of the mature units of a layer replaced per optimizer step, in ``[0, 1]``.
        maturity_threshold: Optimizer steps during which a new unit is protected.
        decay_rate: Decay of the running utility and of the mean output, in ``[0, 1)``.
        utility: Another utility than :class:`~lightning_plasticity.replacement.Contribution`; it brings its own decay.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser.
        keep_mean_output: Whether the mean output of a replaced unit moves into the bias of its reader, see
            :class:`~lightning_plasticity.replacement.KeepMeanOutput`.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"``, ``"zero"`` or
            ``"keep"``, see :class:`~lightning_plasticity.replacement.Method`.

    Returns:
        The method.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024), Algorithm 1. Replaces as many
        units as are due instead of one per step, and corrects utilities for the age, as the authors' code does; redraws
        from the layer's own initialiser, resets norms and the optimizer's memory, which the published versions do only
        in part.

    Example:
        >>> continual_backprop(replacement_rate=1e-3).selection
        LowestMature(replacement_rate=0.001, maturity_threshold=100)
    """
    check_flags(keep_mean_output=keep_mean_output)
    transfer: tuple[Edit, ...] = (KeepMeanOutput(decay_rate),) if keep_mean_output else ()
    return Method(
        utility=Contribution(decay_rate) if utility is None else utility,
        selection=LowestMature(replacement_rate, maturity_threshold),
        edits=(*transfer, RedrawIncoming(initializer), ZeroOutgoing(), ResetNorms()),
        optimizer_state=optimizer_state,
    )
