"""The engine: watches units while a model trains and replaces some after an optimizer step.

Order, per optimizer step: ages advance, what the forward passes left is folded into the utilities (activations from
before the step, weights from after it), units are selected in *all* groups, and only then edited, from input to output;
the optimizer forgets them and their memory starts afresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_plasticity.errors import check_entries, check_seed
from lightning_plasticity.replacement.distributed import agree, average
from lightning_plasticity.replacement.events import Listener, ReplacementEvent
from lightning_plasticity.replacement.memory import Memory
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.observability import plan
from lightning_plasticity.replacement.observation import Observation
from lightning_plasticity.replacement.optimizer.memory import OptimizerMemory
from lightning_plasticity.replacement.overrides import method_per_group
from lightning_plasticity.replacement.refusals import (
    acting_after,
    check_groups,
    checked_method,
    checked_optimizers,
    owner_of,
    refuse_overlap,
)
from lightning_plasticity.replacement.state import check_state, group_problems, same_groups
from lightning_plasticity.replacement.treatment import Treatment
from lightning_plasticity.units import Skipped, UnitGroup, UnitMap
from lightning_plasticity.units.links import Links
from lightning_plasticity.units.unit_map import checked_groups


class UnitReplacer:
    """Replaces units of a model by a method, after the optimizer's steps.

    Works in any training loop: it hooks the layers that read the units and the optimizer's ``step``. Nothing is added
    to the model and nothing is left on it after :meth:`detach`. All forward passes in training mode between two steps
    of an optimizer count, by their number of samples, so gradients may be accumulated. Attach before a compiled model
    runs for the first time: a compiled model does not see hooks that come later.

    On several processes every decision, and :meth:`state_dict`, exchanges what the processes remember: construct the
    engine and take its state on all of them.

    Args:
        method: What is measured, selected and edited.
        units: The units, from :func:`~lightning_plasticity.units.discover_units`.
        optimizer: The optimizer, or all of them; a unit ages with the one that owns its first incoming weight, at each
            of its steps in which that weight has a gradient.
        overrides: Other methods for the groups whose name matches a pattern (``*``, ``?``); the first match wins. They
            may differ from ``method`` in selection, edits and period, not in what is measured.
        seed: Seed of the engine's own random numbers; None takes PyTorch's global seed. All processes use the seed of
            the first.

    Attributes:
        groups: The groups under treatment, in order.
        methods: The method of every group, in the same order.
        ages: Their ages, in the same order.
        steps: Steps that changed the parameters since the engine was built, per optimizer.
        links: Tell whether the layers of the units are still part of the model.
        listeners: Functions called with a :class:`~lightning_plasticity.replacement.ReplacementEvent` after every
            replacement.

    Raises:
        InvalidArgumentError: If an argument is none of its kind, or an override matches no group or measures others.
        StateMismatchError: If a layer of ``units``, a map, is no longer part of the model; at later steps as well.
        UnsupportedModelError: If there is no group, or one cannot be treated.
        UnsupportedOptimizerError: If an optimizer keeps its memory in a form that cannot be addressed.

    Example:
        >>> from lightning_plasticity.methods import continual_backprop
        >>> from lightning_plasticity.units import discover_units
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = continual_backprop(replacement_rate=0.25, maturity_threshold=1)
        >>> with UnitReplacer(method, discover_units(model, torch.randn(2, 4)), optimizer) as replacer:
        ...     for _ in range(3):
        ...         model(torch.randn(16, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> replacer.ages[0].replaced
        3
    """

    def __init__(
        self,
        method: Method,
        units: UnitMap | Sequence[UnitGroup],
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        overrides: Mapping[str, Method] | None = None,
        seed: int | None = None,
    ) -> None:
        check_seed(seed)
        self.method, self._statistics = checked_method(method), method.statistics
        self.groups = checked_groups(units)
        self.links = Links(units)
        self.methods = method_per_group(self.groups, method, overrides)
        self.use(optimizer)
        self.memory = Memory(self.groups, method.fields())
        self._treatments = [Treatment(each, self.memory, i) for i, each in enumerate(self.methods)]
        self.ages = [treatment.ages for treatment in self._treatments]
        seed = int(torch.initial_seed() if seed is None else seed) % 2**64
        self.generator = torch.Generator().manual_seed(agree(seed, self._device))
        self.listeners: list[Listener] = []
        self._observation = Observation(self.memory, self._statistics, self.links.idle)
        self._handles: list[RemovableHandle] = []

    def use(self, optimizer: Optimizer | Sequence[Optimizer]) -> None:
        """Train on with other optimizers, such as those of a further fit; call it while detached.

        Args:
            optimizer: The optimizer, or all of them.

        Raises:
            InvalidArgumentError: If one of them is none.
            UnsupportedModelError: If a group is not trained by them.
            UnsupportedOptimizerError: If an optimizer keeps its memory in a form that cannot be addressed.
        """
        optimizers = checked_optimizers(optimizer)
        check_groups(self.groups, optimizers, self._statistics)
        self.optimizers, self.steps = optimizers, [0] * len(optimizers)
        self.optimizer_memory = [OptimizerMemory(each, self.method.optimizer_state) for each in optimizers]
        owners = [owner_of(group, optimizers) for group in self.groups]
        self._owned = [[i for i, owner in enumerate(owners) if owner == place] for place in range(len(optimizers))]

    def attach(self) -> Self:
        """Start watching the model and acting after optimizer steps.

        Returns:
            The replacer itself.

        Raises:
            InvalidArgumentError: If another engine that is attached replaces some of the same units.
            StateMismatchError: If a layer of the units is no longer part of the model.
        """
        self.detach()
        self.links.check()
        others = [each for optimizer in self.optimizers for each in acting_after(optimizer)]
        refuse_overlap(self.groups, [each.groups for each in others if isinstance(each, UnitReplacer)])
        self._observation.attach()
        for position, optimizer in enumerate(self.optimizers):
            hook = partial(self._after_step, position)
            self._handles.append(optimizer.register_step_post_hook(hook))
        return self

    def detach(self) -> None:
        """Remove every hook; the memory stays, and :meth:`attach` continues with it."""
        self._observation.detach()
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def drop_readings(self, position: int | None = None) -> None:
        """Throw away what was observed since the last step, because the step it was for does not happen.

        A fused optimizer tells by itself that a gradient scaler made it skip. The step of any other is just not called,
        so without this call the readings of the skipped step count as further micro-batches of the next one.

        Args:
            position: Position of the optimizer whose step is skipped; None means all.
        """
        for owned in self._owned if position is None else [self._owned[position]]:
            self._observation.drop(owned)

    def state_dict(self) -> dict[str, Any]:
        """Return ages, utilities, random state and what edits hold, as plain tensors by group name.

        On several processes this averages their memories first, so it must be called on all of them.
        """
        average(self.memory)
        return self._own_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state returned by :meth:`state_dict`; the optimizers' own states must have been restored before.

        Args:
            state: The state; its tensors may lie on any device.

        Raises:
            StateMismatchError: If it belongs to other groups, sizes or another method; nothing is changed then.
        """
        check_state(state, self._own_state(), self.groups, self.optimizers)
        for treatment in self._treatments:
            treatment.load_state_dict(state["groups"][treatment.group.name])
        self.generator.set_state(state["generator"].cpu())
        for each, part in zip(self.optimizer_memory, state["optimizers"], strict=True):
            each.load_state_dict(part, self.groups)

    def carry_over(self, state: dict[str, Any]) -> None:
        """Continue the groups that ``state`` knows by name and size; others, such as a grown layer's, start afresh.

        Args:
            state: A state of an earlier engine, whose optimizers are gone.

        Raises:
            StateMismatchError: If it is something else.
        """
        check_entries(state, "groups", "generator")
        for treatment in self._treatments:
            saved = state["groups"].get(treatment.group.name)
            if saved is not None and not group_problems(saved, treatment.state_dict()):
                treatment.load_state_dict(saved)
        self.generator.set_state(state["generator"].cpu())

    def plan(self, skipped: Iterable[Skipped] = ()) -> str:
        """Return a table for people: per group the replacements to expect, then the layers that are left alone.

        Args:
            skipped: Those layers, such as ``units.skipped``.
        """
        selections = [method.selection for method in self.methods]
        return plan(self.groups, selections, [method.every_n_steps for method in self.methods], skipped)

    def metrics(self) -> dict[str, float]:
        """Return numbers per group: ``replaced/<group>``, ``mature_fraction/<group>``, ``utility_median/<group>`` ...

        See :mod:`~lightning_plasticity.replacement.observability`. Waits for the device; changes nothing. On several
        processes the quantiles are those of this one.
        """
        values: dict[str, float] = {}
        generator = torch.Generator().set_state(self.generator.get_state())  # looking must not move the engine's own
        for treatment in self._treatments:
            values |= treatment.metrics(generator)
        return values

    def _after_step(self, position: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        memory = self.optimizer_memory[position]
        if not memory.stepped():
            self.drop_readings(position)
            return
        if not self.links.check():
            check_groups(self.groups, self.optimizers, self._statistics)  # weights that were exchanged may be nobody's
        self.steps[position] += 1
        with torch.no_grad():
            memory.after_step()
            trained, samples = self._observation.collect(self._owned[position])
            for statistic in self._statistics:
                statistic.update(self.memory, samples)
            due = {i: count for i in trained if (count := self._treatments[i].advance(self.generator))}
            if due:
                self._replace(due)

    def _replace(self, due: Mapping[int, int]) -> None:
        average(self.memory)
        scores = {i: self._treatments[i].score(self.generator) for i in due}
        chosen = {i: self.methods[i].selection.choose(scores[i], due[i], self.ages[i], self.generator) for i in due}
        for i, units in chosen.items():
            if len(units):
                self._edit(self._treatments[i], units, scores[i])
            self.memory.drop(i, "decision")

    def _edit(self, treatment: Treatment, units: Tensor, score: Tensor) -> None:
        group, ages = treatment.group, treatment.ages
        treatment.edit(units, score, self.generator)
        for each in self.optimizer_memory:
            each.forget(group, units)
        if self.listeners:
            old, worth = tuple(ages.age[units].tolist()), tuple(score[units].tolist())
            event = ReplacementEvent(ages.step, group.name, tuple(units.tolist()), old, worth)
            for listener in self.listeners:
                listener(event)
        treatment.renew(units)

    @property
    def attached(self) -> bool:
        """Whether the engine watches and acts."""
        return bool(self._handles)

    def treats(self, units: Iterable[UnitGroup]) -> bool:
        """Return whether ``units`` are the groups under treatment, in the same tensors on the same device."""
        return same_groups(units, self.groups) and self.memory.device == self._device

    @property
    def _device(self) -> torch.device:
        return self.groups[0].incoming[0].tensor.device

    def _own_state(self) -> dict[str, Any]:
        return {
            "groups": {treatment.group.name: treatment.state_dict() for treatment in self._treatments},
            "generator": self.generator.get_state(),
            "optimizers": [each.state_dict() for each in self.optimizer_memory],
        }
