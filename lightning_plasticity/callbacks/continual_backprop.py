"""Continual Backprop as a Lightning callback."""

from __future__ import annotations

from typing import Any

from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.methods.continual_backprop import PER_LAYER, continual_backprop
from lightning_plasticity.methods.overrides import Overrides, methods_by_layer
from lightning_plasticity.methods.utility_names import UtilityName, utility_named
from lightning_plasticity.replacement import Initializer, StatePolicy
from lightning_plasticity.units.patterns import Patterns


class ContinualBackprop(UnitReplacement):
    """Replace a small, constant fraction of the least useful mature hidden units after every optimizer step.

    Args:
        replacement_rate: Fraction of the mature units of a layer replaced per optimizer step, in ``[0, 1]``. The
            number of replacements in 1000 steps is ``1000 * replacement_rate * units``.
        maturity_threshold: Optimizer steps during which a new unit is protected.
        decay_rate: Decay of the running utility and of the mean output, in ``[0, 1)``.
        utility: What a unit is worth: its ``"contribution"`` (the paper's), ``"zero_contribution"`` and
            ``"adaptable_contribution"`` (what it adds beyond its mean, the latter over how fast it can change; used in
            most of the published runs), ``"adaptation"``, ``"weight_magnitude"``, ``"activation"``,
            ``"deviation_by_input"``, ``"gradient"`` and ``"fisher"`` (the change of the loss without it), or
            ``"random"`` (the control). Any other goes into :class:`UnitReplacement`.
        initializer: How new incoming weights are drawn; None takes the layer's own initialiser, found out by looking
            at its weights.
        keep_mean_output: Whether the mean output of a replaced unit moves into the bias of its reader; needs readers
            with a bias.
        optimizer_state: What happens to the optimizer's memory of replaced weights: ``"fresh"`` continues as a newly
            built optimizer would, ``"zero"`` sets the moments to 0, ``"keep"`` leaves them.
        overrides: Arguments that differ in some layers, such as ``{"encoder.*": {"replacement_rate": 1e-3}}``: any of
            ``replacement_rate``, ``maturity_threshold``, ``initializer`` and ``keep_mean_output``, by pattern (``*``,
            ``?``) of group names; the first match wins.
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
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024); see
        :func:`~lightning_plasticity.methods.continual_backprop` for where this differs.

    Example:
        >>> import lightning.pytorch as pl
        >>> callback = ContinualBackprop(replacement_rate=1e-4)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        decay_rate: float = 0.99,
        *,
        utility: UtilityName = "contribution",
        initializer: Initializer | None = None,
        keep_mean_output: bool = False,
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
            "decay_rate": decay_rate,
            "utility": utility_named(utility, decay_rate),
            "initializer": initializer,
            "keep_mean_output": keep_mean_output,
            "optimizer_state": optimizer_state,
        }
        method, others = methods_by_layer(continual_backprop, arguments, overrides, per_layer=PER_LAYER)
        super().__init__(
            method,
            overrides=others,
            include=include,
            exclude=exclude,
            example_input=example_input,
            seed=seed,
            record_events=record_events,
        )
