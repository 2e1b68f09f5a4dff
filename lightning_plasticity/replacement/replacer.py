"""The engine: watches units while a model trains and replaces some after an optimizer step.

Order, per optimizer step: ages advance, what the forward passes left is folded into the utilities (activations from
before the step, weights from after it), units are selected in *all* groups, and only then edited, from input to output;
the optimizer forgets them and their memory starts afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_plasticity.errors import StateMismatchError
from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.distributed import average
from lightning_plasticity.replacement.edits import Replacement
from lightning_plasticity.replacement.memory import Memory
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.optimizer_state import OptimizerMemory
from lightning_plasticity.replacement.overrides import method_per_group
from lightning_plasticity.replacement.refusals import check_groups
from lightning_plasticity.replacement.watch import Observe, Reading, Watch
from lightning_plasticity.units import UnitGroup, UnitMap

Listener = Callable[[UnitGroup, Tensor], None]


class UnitReplacer:
    """Replaces units of a model by a method, after the optimizer's steps.

    Works in any training loop: it hooks the layers that read the units and the optimizer's ``step``. Nothing is added
    to the model and nothing is left on it after :meth:`detach`.

    Args:
        method: What is measured, selected and edited.
        units: The units, from :func:`~lightning_plasticity.units.discover_units`.
        optimizer: The optimizer, or all of them; a unit ages with the one that owns its first incoming weight.
        overrides: Other methods for the groups whose name matches a pattern (``*``, ``?``); the first match wins. They
            may differ from ``method`` in selection, edits and period, not in what is measured.
        seed: Seed of the engine's own random numbers; None takes PyTorch's global seed. Must be equal on all processes.

    Attributes:
        groups: The groups under treatment, in order.
        methods: The method of every group, in the same order.
        ages: Their ages, in the same order.
        listeners: Functions called with the group and the units (``[R]``, host) after every replacement.

    Raises:
        InvalidArgumentError: If an override matches no group or measures something else.
        UnsupportedModelError: If no group can be treated.
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
        self.method = method
        self.optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self.groups = tuple(units)
        self.methods = method_per_group(self.groups, method, overrides or {})
        self._statistics = method.statistics
        self._owner = [self._owning_optimizer(group) for group in self.groups]
        check_groups(self.groups, self._owner, self._statistics)
        self.ages = [Ages(group.size) for group in self.groups]
        self.memory = Memory(self.groups, method.fields())
        self.held = [[edit.prepare(g) for edit in m.edits] for g, m in zip(self.groups, self.methods, strict=True)]
        self.generator = torch.Generator().manual_seed(torch.initial_seed() if seed is None else seed)
        self.optimizer_memory = [OptimizerMemory(each, method.optimizer_state) for each in self.optimizers]
        self.listeners: list[Listener] = []
        self._watches = [self._watch(position) for position in range(len(self.groups))]
        self._handles: list[RemovableHandle] = []

    def attach(self) -> Self:
        """Start watching the model and acting after optimizer steps.

        Returns:
            The replacer itself.
        """
        self.detach()
        device = self.groups[0].incoming[0].tensor.device
        for watch in self._watches:
            if watch is not None:
                watch.attach(torch.zeros((), device=device))
        for position, optimizer in enumerate(self.optimizers):
            hook = partial(self._after_step, position)
            self._handles.append(optimizer.register_step_post_hook(hook))
        return self

    def detach(self) -> None:
        """Remove every hook; the memory stays, and :meth:`attach` continues with it."""
        for watch in self._watches:
            if watch is not None:
                watch.detach()
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return ages, utilities, random state and what edits hold, as plain tensors by group name.

        On several processes this averages their memories first, so it must be called on all of them.
        """
        average(self.memory)
        return {
            "groups": {
                group.name: {
                    "ages": self.ages[i].state_dict(),
                    "memory": dict(self.memory.state_dict()[group.name]),
                    "held": [{k: v.clone() for k, v in held.items()} for held in self.held[i]],
                }
                for i, group in enumerate(self.groups)
            },
            "generator": self.generator.get_state(),
            "optimizers": [each.state_dict() for each in self.optimizer_memory],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state returned by :meth:`state_dict`.

        Args:
            state: The state; its tensors may lie on any device.

        Raises:
            StateMismatchError: If it belongs to other groups, sizes or another method; nothing is changed then.
        """
        saved = state["groups"]
        missing = [group.name for group in self.groups if group.name not in saved]
        extra = [name for name in saved if name not in {group.name for group in self.groups}]
        if missing or extra:
            raise StateMismatchError(
                f"the saved state lacks the units of {missing} and has those of {extra}, which the model lacks"
                if missing
                else f"the saved state has units of {extra}, which the model (or include/exclude) lacks",
                f"units of {[group.name for group in self.groups]}",
                "Resume with the model, include and exclude that wrote the checkpoint, or drop the callback's state",
            )
        self.memory.load_state_dict({name: part["memory"] for name, part in saved.items()})
        for i, group in enumerate(self.groups):
            self.ages[i].load_state_dict(saved[group.name]["ages"])
            self.held[i] = [dict(held) for held in saved[group.name]["held"]]
        self.generator.set_state(state["generator"].cpu())
        for each, part in zip(self.optimizer_memory, state["optimizers"], strict=True):
            each.load_state_dict(part, self.groups)

    def carry_over(self, state: dict[str, Any]) -> None:
        """Continue the groups that ``state`` knows by name and size; others, such as a grown layer's, start afresh.

        Args:
            state: A state of an earlier engine, whose optimizers are gone.
        """
        for i, group in enumerate(self.groups):
            saved = state["groups"].get(group.name)
            if saved is not None and saved["ages"]["born"].shape[0] == group.size:
                self.ages[i].load_state_dict(saved["ages"])
                self.memory.load_group(i, saved["memory"])
                self.held[i] = [dict(held) for held in saved["held"]]
        self.generator.set_state(state["generator"])

    def metrics(self) -> dict[str, float]:
        """Return what is known without asking the device: units replaced so far and the share of mature ones."""
        values: dict[str, float] = {}
        for group, method, ages in zip(self.groups, self.methods, self.ages, strict=True):
            values[f"replaced/{group.name}"] = ages.replaced
            threshold = getattr(method.selection, "maturity_threshold", None)
            if threshold is not None:
                values[f"mature/{group.name}"] = ages.mature_count(threshold) / max(1, group.size)
        return values

    # ------------------------------------------------------------------------------------------------ one step

    def _after_step(self, position: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.optimizer_memory[position].stepped():
            self._forget_readings(position)
            return
        with torch.no_grad():
            self.optimizer_memory[position].after_step()
            seen = self._collect(position)
            for i in seen:
                self.ages[i].advance()
            for statistic in self._statistics:
                statistic.update(self.memory, seen)
            self._replace(seen)

    def _replace(self, seen: dict[int, Tensor | int]) -> None:
        due = {}
        for i in seen:
            if self.ages[i].step % self.methods[i].every_n_steps == 0:
                count = self.methods[i].selection.due(self.ages[i], self.generator)
                if count:
                    due[i] = count
        if not due:
            return
        average(self.memory)
        scores = {i: self._score(i) for i in due}
        chosen = {i: self.methods[i].selection.choose(scores[i], due[i], self.ages[i], self.generator) for i in due}
        for i, units in chosen.items():
            if len(units):
                self._edit(i, units, scores[i])
            self.memory.drop(i, "decision")

    def _edit(self, i: int, units: Tensor, score: Tensor) -> None:
        group = self.groups[i]
        for edit, held in zip(self.methods[i].edits, self.held[i], strict=True):
            edit(Replacement(group, units, score, self.memory.parts[i], held, self.generator))
        for each in self.optimizer_memory:
            each.forget(group, units)
        self.memory.renew(i, units)
        self.ages[i].renew(units)
        for listener in self.listeners:
            listener(group, units)

    def _score(self, i: int) -> Tensor:
        state, group = self.memory.parts[i], self.groups[i]
        age = self.ages[i].age.to(group.incoming[0].tensor.device, torch.float64)
        return self.method.utility.score(state, group, age, self.generator).double().cpu()

    # ------------------------------------------------------------------------------------------------ readings

    def _watch(self, i: int) -> Watch | None:
        tap = self.groups[i].tap
        readers = [each for each in self._statistics if each.reads_activation or each.reads_gradient]
        if tap is None or not readers:
            return None
        observe = partial(_observe_all, [partial(each.observe, self.memory.parts[i]) for each in readers])
        return Watch(tap, observe, reads_gradient=any(each.reads_gradient for each in readers))

    def _collect(self, position: int) -> dict[int, Tensor | int]:
        """Take the sample counts of the groups that this optimizer owns and that were seen since its last step."""
        seen: dict[int, Tensor | int] = {}
        for i, (owner, watch) in enumerate(zip(self._owner, self._watches, strict=True)):
            if owner == position:
                count = 1 if watch is None else watch.collect()
                if count is not None:
                    seen[i] = count
        return seen

    def _forget_readings(self, position: int) -> None:
        for i in self._collect(position):
            self.memory.drop(i, "step")

    def _owning_optimizer(self, group: UnitGroup) -> int | None:
        parameter = group.incoming[0].tensor
        for position, optimizer in enumerate(self.optimizers):
            if any(parameter is p for param_group in optimizer.param_groups for p in param_group["params"]):
                return position
        return None


def _observe_all(observers: Sequence[Observe], reading: Reading) -> None:
    for observe in observers:
        observe(reading)
