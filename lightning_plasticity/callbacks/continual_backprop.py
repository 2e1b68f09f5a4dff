"""Continual Backprop as a Lightning callback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_plasticity.callbacks.unit_replacement import UnitReplacement
from lightning_plasticity.methods import continual_backprop


class ContinualBackprop(UnitReplacement):
    """Replace a small, constant fraction of the least useful mature hidden units after every optimizer step.

    Args:
        replacement_rate: Fraction of the mature units of a layer replaced per optimizer step, in ``[0, 1]``. The
            number of replacements in 1000 steps is ``1000 * replacement_rate * units``.
        maturity_threshold: Optimizer steps during which a new unit is protected.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        include: Patterns (``*``, ``?``) of groups to treat; None treats all.
        exclude: Patterns of groups to leave alone.
        example_input: Arguments of ``forward`` for finding the units; default ``pl_module.example_input_array``, else
            the first training batch.
        seed: Seed of the callback's own random numbers; None takes the global seed.
        record_events: Whether to keep a record of every replacement in ``events``.

    Raises:
        InvalidArgumentError: If a number is out of its range.

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
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        example_input: Any | None = None,
        seed: int | None = None,
        record_events: bool = False,
    ) -> None:
        method = continual_backprop(replacement_rate, maturity_threshold, decay_rate)
        super().__init__(
            method,
            include=include,
            exclude=exclude,
            example_input=example_input,
            seed=seed,
            record_events=record_events,
        )
