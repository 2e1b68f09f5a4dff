"""Self-Normalized Resets as a Lightning callback."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.methods.overrides import Overrides, methods_by_layer
from lightning_plasticity.methods.self_normalized_resets import PER_LAYER, self_normalized_resets
from lightning_plasticity.replacement import Initializer, StatePolicy
from lightning_plasticity.units.patterns import Patterns


class SelfNormalizedResets(UnitReplacement):
    """Replace a hidden unit when it has been silent for longer than its own past explains.

    Args:
        rejection_rate: A unit is replaced when its silence has reached the ``1 - rejection_rate`` quantile of its own
            inter-firing times, counted in optimizer steps.
        every_n_steps: Optimizer steps between two decisions.
        firing_threshold: A unit fires in a step when the magnitude of one of its activations exceeds this; 0 suits
            ReLU, activations that are never exactly 0 need a larger one.
        prior_weight: How many firings the inter-firing times of the whole layer count for in judging a unit.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser, found out by looking
            at its weights.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"`` continues as a newly
            built optimizer would, ``"zero"`` sets the moments to 0, ``"keep"`` leaves them.
        overrides: Arguments that differ in some layers, such as ``{"encoder.*": {"rejection_rate": 0.05}}``, by pattern
            (``*``, ``?``) of group names; the first match wins.
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
        Farias and Jozefiak, `Self-normalized resets for plasticity in continual learning` (ICLR 2025); see
        :func:`~lightning_plasticity.methods.self_normalized_resets` for where this differs.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(callbacks=[SelfNormalizedResets(rejection_rate=0.02)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        rejection_rate: float = 0.01,
        every_n_steps: int = 1,
        *,
        firing_threshold: float = 0.0,
        prior_weight: float = 100.0,
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
            "rejection_rate": rejection_rate,
            "every_n_steps": every_n_steps,
            "firing_threshold": firing_threshold,
            "prior_weight": prior_weight,
            "initializer": initializer,
            "optimizer_state": optimizer_state,
        }
        method, others = methods_by_layer(self_normalized_resets, arguments, overrides, per_layer=PER_LAYER)
        super().__init__(
            method,
            overrides=others,
            include=include,
            exclude=exclude,
            example_input=example_input,
            seed=seed,
            record_events=record_events,
        )
