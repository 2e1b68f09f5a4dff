"""Random replacement as a Lightning callback."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.methods.overrides import Overrides, methods_by_layer
from lightning_plasticity.methods.random_replacement import PER_LAYER, random_replacement
from lightning_plasticity.replacement import Initializer, StatePolicy
from lightning_plasticity.units.patterns import Patterns


class RandomReplacement(UnitReplacement):
    """Replace hidden units drawn by lot, as many and as often as Continual Backprop: its control experiment.

    Args:
        replacement_rate: Fraction of the mature units of a layer replaced per optimizer step, in ``[0, 1]``.
        maturity_threshold: Optimizer steps during which a new unit is protected.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser, found out by looking
            at its weights.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"`` continues as a newly
            built optimizer would, ``"zero"`` sets the moments to 0, ``"keep"`` leaves them.
        overrides: Arguments that differ in some layers, such as ``{"encoder.*": {"replacement_rate": 1e-3}}``, by
            pattern (``*``, ``?``) of group names; the first match wins.
        include: Patterns of groups to treat; None treats all. Two of these callbacks in a Trainer differ here or in
            ``exclude``, by which checkpoints tell them apart.
        exclude: Patterns of groups to leave alone.
        example_input: Arguments of ``forward`` for finding the units; default ``pl_module.example_input_array``, else
            the first training batch.
        seed: Seed of the callback's own random numbers; None takes the global seed.
        record_events: Whether to keep a record of every replacement in ``events``; checkpoints hold none of them.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Control for Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024); see
        :func:`~lightning_plasticity.methods.random_replacement` for where this differs.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(callbacks=[RandomReplacement(replacement_rate=1e-4)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        *,
        initializer: Initializer | None = None,
        optimizer_state: StatePolicy = "fresh",
        overrides: Overrides | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        example_input: Any | None = None,
        seed: int | None = None,
        record_events: bool = False,
    ) -> None:
        arguments = {
            "replacement_rate": replacement_rate,
            "maturity_threshold": maturity_threshold,
            "initializer": initializer,
            "optimizer_state": optimizer_state,
        }
        method, others = methods_by_layer(random_replacement, arguments, overrides, per_layer=PER_LAYER)
        super().__init__(
            method,
            overrides=others,
            include=include,
            exclude=exclude,
            example_input=example_input,
            seed=seed,
            record_events=record_events,
        )
