"""The lifetime of the replacement engine in an Avalanche strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SupervisedPlugin
from typing_extensions import override

from lightning_plasticity.avalanche.finding import find_units
from lightning_plasticity.errors import check_flags, check_seed
from lightning_plasticity.replacement import Method, ReplacementEvent, UnitReplacer
from lightning_plasticity.replacement.refusals import checked_method, checked_overrides, treatable
from lightning_plasticity.units import UnitMap
from lightning_plasticity.units.patterns import Patterns, include_exclude


class UnitReplacementPlugin(SupervisedPlugin[Any], supports_distributed=False):
    """Replace hidden units by any method, after every optimizer step of an Avalanche strategy.

    The units are found anew in every experience, since heads grow: from ``example_input``, or by running the strategy's
    own forward pass on the first mini-batch. Groups that are still there keep ages and utilities by name; those of a
    layer that grew start afresh. Units that reach the output, such as the head's, are never touched.

    Avalanche's own checkpoints pickle the whole strategy; to resume, save ``plugin.replacer.state_dict()`` instead and
    set ``plugin.restored`` to it before training goes on.

    Args:
        method: The method, such as :func:`~lightning_plasticity.methods.continual_backprop`.
        overrides: Other methods for the groups whose name matches a pattern.
        include: Patterns (``*``, ``?``) of groups to treat; None treats all.
        exclude: Patterns of groups to leave alone.
        example_input: Arguments of the model's ``forward`` for finding the units: a tensor, tuple or dict.
        seed: Seed of the plugin's own random numbers; None takes the global seed.
        record_events: Whether to keep a record of every replacement in ``events``.

    Attributes:
        replacer: The engine; None before the first mini-batch.
        events: A :class:`~lightning_plasticity.replacement.ReplacementEvent` per replacement, if recorded; not part of
            the engine's state.
        units: The units found in the current experience.
        restored: A state of the engine to go on from, taken over when the units are found next.

    Example:
        >>> from lightning_plasticity.methods import continual_backprop
        >>> plugin = UnitReplacementPlugin(continual_backprop(replacement_rate=1e-4))
    """

    def __init__(
        self,
        method: Method,
        *,
        overrides: Mapping[str, Method] | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        example_input: Any | None = None,
        seed: int | None = None,
        record_events: bool = False,
    ) -> None:
        check_seed(seed)
        check_flags(record_events=record_events)
        super().__init__()
        self.method, self.overrides = checked_method(method), checked_overrides(overrides)
        self.include, self.exclude = include_exclude(include, exclude)
        self.example_input, self.seed, self.record_events = example_input, seed, record_events
        self.events: list[ReplacementEvent] = []
        self.replacer: UnitReplacer | None = None
        self.units: UnitMap | None = None
        self.restored: dict[str, Any] | None = None

    @override
    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Find the units with the first mini-batch of an experience, and start to watch.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.

        Raises:
            UnsupportedModelError: If the model has no units to replace.
        """
        if self.units is not None:
            return
        units = find_units(strategy, self.example_input, self.include, self.exclude)
        self.units = treatable(units, (strategy.optimizer,), self.method.statistics)
        self._start(strategy)

    @override
    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Stop watching: the model may change before the next experience.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        self.units = None
        if self.replacer is not None:
            self.replacer.detach()

    def _start(self, strategy: Any) -> None:
        assert self.units is not None  # noqa: S101 - just found
        before = self.replacer
        if before is None or not before.treats(self.units) or before.optimizers != (strategy.optimizer,):
            self.replacer = UnitReplacer(
                self.method, self.units, strategy.optimizer, overrides=self.overrides, seed=self.seed
            )
            if self.record_events:
                self.replacer.listeners.append(self.events.append)
            if before is not None:
                self.replacer.carry_over(before.state_dict())
        assert self.replacer is not None  # noqa: S101 - just built
        if self.restored is not None:
            self.replacer.carry_over(self.restored)
            self.restored = None
        self.replacer.attach()
