"""Random replacement: Continual Backprop with scores drawn by lot, the control experiment."""

from __future__ import annotations

from lightning_plasticity.methods.continual_backprop import continual_backprop
from lightning_plasticity.replacement import Initializer, Method, Random, StatePolicy

PER_LAYER = ("replacement_rate", "maturity_threshold", "initializer")
"""The arguments that may differ between layers."""


def random_replacement(
    replacement_rate: float = 1e-4,
    maturity_threshold: int = 100,
    *,
    initializer: Initializer | None = None,
    optimizer_state: StatePolicy = "fresh",
) -> Method:
    """Return the control for methods that choose the units: as many, as often, but drawn by lot.

    Args:
        replacement_rate: Fraction of the mature units of a layer replaced per optimizer step, in ``[0, 1]``.
        maturity_threshold: Optimizer steps during which a new unit is protected.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"``, ``"zero"`` or
            ``"keep"``.

    Returns:
        The method.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    Example:
        >>> random_replacement().utility
        Random()
    """
    return continual_backprop(
        replacement_rate,
        maturity_threshold,
        utility=Random(),
        initializer=initializer,
        optimizer_state=optimizer_state,
    )
