"""ReDo as a Lightning callback."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.methods.overrides import Overrides, methods_by_layer
from lightning_plasticity.methods.redo import PER_LAYER, redo
from lightning_plasticity.replacement import Initializer, StatePolicy
from lightning_plasticity.units.patterns import Patterns


class ReDo(UnitReplacement):
    """Replace dormant hidden units, whose activation is small relative to their layer's, every ``n`` optimizer steps.

    Args:
        threshold: A unit is dormant, and replaced, if its mean absolute activation is at most this share of its
            layer's. A silent layer is dormant as a whole.
        every_n_steps: Optimizer steps between two decisions, over which the activations are averaged.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser, found out by looking
            at its weights.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"`` continues as a newly
            built optimizer would, ``"zero"`` sets the moments to 0, ``"keep"`` leaves them.
        overrides: Arguments that differ in some layers, such as ``{"encoder.*": {"threshold": 0.1}}``, by pattern
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
        Sokar et al., `The dormant neuron phenomenon in deep reinforcement learning` (ICML 2023); see
        :func:`~lightning_plasticity.methods.redo` for where this differs.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(callbacks=[ReDo(threshold=0.1)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        threshold: float = 0.025,
        every_n_steps: int = 1000,
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
            "threshold": threshold,
            "every_n_steps": every_n_steps,
            "initializer": initializer,
            "optimizer_state": optimizer_state,
        }
        method, others = methods_by_layer(redo, arguments, overrides, per_layer=PER_LAYER)
        super().__init__(
            method,
            overrides=others,
            include=include,
            exclude=exclude,
            example_input=example_input,
            seed=seed,
            record_events=record_events,
        )
