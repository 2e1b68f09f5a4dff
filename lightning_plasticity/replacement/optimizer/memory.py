"""Make an optimizer forget what it knows of replaced units.

Per-element memory is found by its shape, not by its name, so that every optimizer works: momentum buffers, moments,
maxima become 0. Three are not neutral at 0 and start as a new optimizer starts them: the step sizes of Rprop, the sums
of Adagrad and the averages of ASGD. Memory of another shape (Adafactor's rows and columns, a scalar step) stays.

A scalar step shared by old and new entries would make Adam kick the new ones: its moments restart at 0 while its bias
corrections have run out. The policy ``"fresh"`` undoes that, see
:class:`~lightning_plasticity.replacement.optimizer.young_entries.YoungEntries`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam

from lightning_plasticity.errors import UnsupportedOptimizerError
from lightning_plasticity.replacement.optimizer.young_entries import YoungEntries
from lightning_plasticity.units import Slot, UnitGroup

StatePolicy: TypeAlias = Literal["fresh", "zero", "keep"]


class OptimizerMemory:
    """The memory of one optimizer, as far as it concerns replaced units.

    Args:
        optimizer: The optimizer.
        policy: ``"fresh"``, ``"zero"`` or ``"keep"``; see :class:`~lightning_plasticity.replacement.method.Method`.

    Raises:
        UnsupportedOptimizerError: If the optimizer's memory is not per element.
    """

    def __init__(self, optimizer: Optimizer, policy: StatePolicy) -> None:
        if isinstance(optimizer, (LBFGS, SparseAdam)):
            raise UnsupportedOptimizerError(
                f"the optimizer {type(optimizer).__name__}",
                "an optimizer that takes one step per call and keeps its memory per element of a parameter",
                "Use SGD, Adam or any other element-wise optimizer for the layers whose units are replaced",
            )
        self.optimizer, self.policy = optimizer, policy
        self.young = YoungEntries(optimizer)

    def stepped(self) -> bool:
        """Return whether the step that just ended changed the parameters.

        A gradient scaler skips the step of most optimizers by not calling it; a fused one is always called, and skips
        on the device. Only then, with a scaler, the device is asked.
        """
        found_inf = getattr(self.optimizer, "found_inf", None)
        return found_inf is None or not bool(found_inf)

    def after_step(self) -> None:
        """Let the entries of young units move as if the optimizer had been built when they were born."""
        if self.policy == "fresh" and self.young:
            self.young.correct()

    def forget(self, group: UnitGroup, units: Tensor) -> None:
        """Forget what the optimizer knows of ``units``.

        Args:
            group: The group.
            units: Units of the group, ``[R]``.
        """
        if self.policy == "keep":
            return
        for slot in group.slots:
            state = self.optimizer.state.get(slot.tensor)
            if state:
                self._forget(slot, units, state)
        if self.policy == "fresh":
            self.young.add(group, units)

    def _forget(self, slot: Slot, units: Tensor, state: dict[str, Any]) -> None:
        for name, value in per_element(state, slot.tensor).items():
            if not value.is_floating_point():
                raise UnsupportedOptimizerError(
                    f"{type(self.optimizer).__name__} keeps {name!r} of {slot.path!r} as {value.dtype}",
                    "memory in floating point, where 0 means nothing",
                    "Use an optimizer without quantised memory, or a Method with optimizer_state='keep'",
                )
            slot.assign(units, self._initial(name, slot, units), tensor=value)

    def _initial(self, name: str, slot: Slot, units: Tensor) -> Tensor | float:
        """What a new optimizer would have in the entry."""
        options = options_of(self.optimizer, slot.tensor)
        if isinstance(self.optimizer, torch.optim.Rprop) and name == "step_size":
            return options["lr"]  # type: ignore[no-any-return]
        if isinstance(self.optimizer, torch.optim.Adagrad) and name == "sum":
            return options["initial_accumulator_value"]  # type: ignore[no-any-return]
        if isinstance(self.optimizer, torch.optim.ASGD) and name == "ax":
            return slot.gather(units)
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the births of young entries as plain tensors."""
        return self.young.state_dict()

    def load_state_dict(self, state: dict[str, Any], groups: tuple[UnitGroup, ...]) -> None:
        """Take over a state returned by :meth:`state_dict`."""
        self.young.load_state_dict(state, groups)


def per_element(state: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    """Return what an optimizer's ``state`` of a parameter holds for each of its entries, by name."""
    return {n: v for n, v in state.items() if isinstance(v, Tensor) and v.ndim and v.shape == parameter.shape}


def options_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """Return the options (learning rate, betas ...) with which the optimizer treats ``parameter``; empty if unknown."""
    for group in optimizer.param_groups:
        if any(parameter is each for each in group["params"]):
            return group
    return {}
