"""What a method remembers of every unit: plain tensors, units first.

The numbers of all groups lie in one flat tensor per name, so that a trace decays in a single kernel, processes are
averaged in a single reduction and a checkpoint is a handful of tensors; each group sees its part as ``[U, ...]``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_plasticity.errors import check_number
from lightning_plasticity.units import UnitGroup

State = dict[str, Tensor]
Held: TypeAlias = Literal["activation sum", "absolute activation sum", "outgoing magnitude"]
"""What the engine itself writes into a field, per feature.

The activations, or their magnitudes, added up over all samples of all forward passes since the last step; or the mean
absolute outgoing weight after the step.
"""


@dataclass(frozen=True)
class Field:
    """One number (or a row of numbers) that is remembered of every unit.

    Args:
        per: ``"unit"`` for ``[U]``, ``"feature"`` for ``[U, K]``: one number per feature where the unit is read.
        width: Length of a trailing dimension; 0 for none.
        fresh: Value of a unit that was never seen or was just replaced.
        lasts: How long it is kept: for the life of the ``"unit"``; until the next ``"decision"`` about its group, after
            which all units start afresh; or for the ``"step"`` under way, whose readings a skipped step throws away.
        holds: What the engine itself writes here, per feature; None leaves the field to the statistic.
        dtype: Data type; None takes that of the weights, at least float32, since a bfloat16 trace stalls.

    Raises:
        InvalidArgumentError: If ``width`` or ``fresh`` is no number.
    """

    per: Literal["unit", "feature"] = "unit"
    width: int = 0
    fresh: float = 0.0
    lasts: Literal["unit", "decision", "step"] = "unit"
    holds: Held | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_number("width", self.width, "[0, inf)", whole=True)
        check_number("fresh", self.fresh, "[-inf, inf]")

    def shape(self, group: UnitGroup) -> tuple[int, ...]:
        """Return the shape that the field has in ``group``."""
        features = (1 if group.tap is None else group.tap.index.shape[1],) if self.per == "feature" else ()
        return (group.size, *features, *((self.width,) if self.width else ()))


class Memory:
    """The fields of a method for all groups.

    Args:
        groups: The groups, in order.
        fields: The fields by name.

    Attributes:
        flat: One flat tensor per field, all groups behind each other.
        device: Device of the memory: that of the first group.
        parts: Per group, the views ``[U, ...]`` into ``flat``.
    """

    def __init__(self, groups: Sequence[UnitGroup], fields: Mapping[str, Field]) -> None:
        self.groups, self.fields = tuple(groups), dict(fields)
        self.device = self.groups[0].incoming[0].tensor.device if self.groups else torch.device("cpu")
        self.flat: dict[str, Tensor] = {}
        self.parts: list[State] = [{} for _ in self.groups]
        if not self.groups:
            return
        tensor = self.groups[0].incoming[0].tensor
        for name, spec in self.fields.items():
            dtype = spec.dtype or torch.promote_types(tensor.dtype, torch.float32)
            shapes = [spec.shape(group) for group in self.groups]
            sizes = [math.prod(shape) for shape in shapes]
            self.flat[name] = torch.full((sum(sizes),), spec.fresh, dtype=dtype, device=self.device)
            for part, view, shape in zip(self.parts, torch.split(self.flat[name], sizes), shapes, strict=True):
                part[name] = view.view(shape)

    def renew(self, group: int, units: Tensor) -> None:
        """Give the ``units`` of the group at position ``group`` a fresh memory; that of the step under way is past."""
        units = units.to(self.device)
        for name, spec in self.fields.items():
            if spec.lasts != "step":
                self.parts[group][name].index_fill_(0, units, spec.fresh)

    def scale(self, name: str, factor: float, positions: Collection[int]) -> None:
        """Multiply a field of the groups at ``positions``, in one kernel if they are all."""
        if len(positions) == len(self.groups):
            self.flat[name].mul_(factor)
        else:
            for position in positions:
                self.parts[position][name].mul_(factor)

    def clear(self, name: str, positions: Collection[int]) -> None:
        """Set a field of the groups at ``positions`` to its fresh value."""
        fresh = self.fields[name].fresh
        whole = len(positions) == len(self.groups)
        for tensor in [self.flat[name]] if whole else [self.parts[position][name] for position in positions]:
            tensor.fill_(fresh) if fresh else tensor.zero_()  # zeros cost less

    def drop(self, group: int, lasts: Literal["decision", "step"]) -> None:
        """Let the fields that last for a decision, or a step, start afresh in the group at position ``group``."""
        for name, spec in self.fields.items():
            if spec.lasts == lasts:
                self.parts[group][name].fill_(spec.fresh)

    def save_group(self, position: int) -> State:
        """Return a copy of what lasts longer than a step, of the group at ``position``."""
        return {name: self.parts[position][name].clone() for name, spec in self.fields.items() if spec.lasts != "step"}

    def load_group(self, position: int, saved: Mapping[str, Tensor]) -> None:
        """Take over the saved memory of the group at ``position``; readings of a step under way start afresh.

        Args:
            position: Position of the group.
            saved: What :meth:`save_group` returned, of equal fields and shapes; tensors may lie on any device.
        """
        self.drop(position, "step")
        for name, value in saved.items():
            self.parts[position][name].copy_(value)


def precise(device: torch.device) -> torch.dtype:
    """Return the most precise floating point type of a device: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64
