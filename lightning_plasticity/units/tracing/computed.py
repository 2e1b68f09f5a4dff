"""Weights that are computed from parameters: which entries of the parameters belong to a row or a column of them.

A weight-normed layer, a standardised kernel, a merged adapter multiply with a weight that is no parameter. What made it
is on the :mod:`~lightning_plasticity.units.tracing.tape`, so the question is put to the computation itself:

1. *Autograd proposes.* The rows are numbered in binary. Per bit, a random combination of all rows whose bit is 1 is
   differentiated, and one of all whose bit is 0. An entry that has a gradient in exactly one of the two, for every bit,
   influences one row alone, and the bits are its number: 2 log2(rows) backward passes find the owner of every entry.
   Where no entry of a parameter has a gradient, as behind a rounding, each is proposed for the row that it lies in.
2. *An experiment decides.* The entries of half of the rows are changed: these rows must change, and no others. For
   columns, the entries are set to zero, if need be those of one parameter alone: these columns must become zero, and
   the others remain.

Where columns share the norm of their row, no entry influences one column alone. They are tried again with the norm held
constant, and the units that they read are then ``coupled``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, UNREAD
from lightning_plasticity.units.tracing.recipe import Recipe, view
from lightning_plasticity.units.tracing.shadow import compact, geometry, storage_key
from lightning_plasticity.units.tracing.tape import DerivedUse, Role, Step, leaves, operations, parts_read

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution
    from lightning_plasticity.units.tracing.source import Orientation, Source

Change: TypeAlias = Literal["redrawn", "zero"]
"""What entries are set to in an experiment."""

_SHARED, _UNREACHED = -1, -2
"""In place of the number of a part: entries that influence several, and entries that influence none."""

_DRAWS = 4
"""How often entries are redrawn; a row of a few in half precision may come out as before by chance."""


@dataclass(eq=False)
class Parts:
    """Which entries of parameters make which part (row or column) of a computed weight.

    Args:
        recipe: How the weight is computed.
        numbers: The number of the part that every entry of the weight lies in, broadcastable to the weight.
        hold: Whether statistics are constant.
    """

    recipe: Recipe
    numbers: Tensor
    hold: bool = False

    def __post_init__(self) -> None:
        """Ask autograd for the owners of all entries, by storage."""
        self.count = int(self.numbers.max()) + 1
        self.generator = torch.Generator().manual_seed(0)
        self.statistics: dict[int, Any] = {}
        self.weight = self.recipe.run(self.recipe.numbers, self.statistics)
        keys = {storage_key(source.tensor) for source in self.recipe.sources if source.is_parameter}
        leaves = {key: self.recipe.numbers[key].clone().requires_grad_() for key in keys}
        self.owners = {key: torch.zeros(flat.shape, dtype=torch.long) for key, flat in leaves.items()}
        with torch.enable_grad():
            weight = self.recipe.run(self.recipe.numbers | leaves, self.statistics, hold=self.hold)
            for bit in range(max(1, (self.count - 1).bit_length())):
                zero, one = (self._reached(weight, leaves, (self.numbers >> bit) & 1 == side) for side in (0, 1))
                for key, owner in self.owners.items():
                    owner[owner >= 0] |= one[key][owner >= 0].long() << bit
                    owner[one[key] & zero[key]] = _SHARED
                    owner[~(one[key] | zero[key])] = _UNREACHED
        for source in self.recipe.sources:
            if source.is_parameter:
                self._guess(source)
                _complete(self.owned(source))

    def owned(self, source: Source) -> Tensor:
        """Return the owners of the entries of one tensor, in its shape: the number of a part, or negative."""
        return view(self.owners[storage_key(source.tensor)], source.tensor)

    def _guess(self, source: Source) -> None:
        """Give entries none of which has a derivative, as of rounded weights, to the parts that lie where they do."""
        owners, strides = self.owned(source), self.recipe.weight.stride()
        lying = sorted(range(len(strides)), key=lambda dim: -strides[dim])  # the dimensions of the weight in memory
        numbers = self.numbers.expand(self.weight.shape).permute(lying)
        if owners.shape == numbers.shape and (owners == _UNREACHED).all():
            owners.copy_(numbers)

    def _reached(self, weight: Tensor, leaves: dict[int, Tensor], chosen: Tensor) -> dict[int, Tensor]:
        """Return the entries, by storage, on which the chosen entries of the weight depend."""
        noise = torch.randn(weight.shape, generator=self.generator).to(weight)
        values = list(leaves.values())
        slopes = torch.autograd.grad(weight, values, noise * chosen.to(weight.device), True, allow_unused=True)
        return {
            key: torch.zeros(len(value), dtype=torch.bool) if slope is None else (slope != 0).cpu()
            for (key, value), slope in zip(leaves.items(), slopes, strict=True)
        }

    def can_be(self, change: Change) -> bool:
        """Try on half of the parts, then on the other half, whether their entries change them and no others."""
        half = torch.randperm(self.count, generator=self.generator) < self.count // 2
        halves = (half, ~half) if self.count > 1 else (~half,)
        return all(self._tried(chosen, change) for chosen in halves) and not (self.hold and self._divides_by_zero())

    def one_can_be_zero(self) -> bool:
        """Try whether the entries of one parameter silence the parts, and if so, give those of the others to nobody."""
        of_all = self.owners  # a length can be set to zero where the direction, divided by its norm, cannot
        owning = [s for s in self.recipe.sources if s.is_parameter and bool((self.owned(s) >= 0).any())]
        for source in owning if len(owning) > 1 else []:
            self.owners = {key: torch.full_like(owner, _UNREACHED) for key, owner in of_all.items()}
            key = storage_key(source.tensor)
            self.owned(source).copy_(view(of_all[key], source.tensor))
            if self.can_be("zero"):
                return True
        self.owners = of_all
        return False

    def _divides_by_zero(self) -> bool:
        """Return whether a part that is set to zero is the whole of what its norm, no longer held, divides by."""
        one = torch.zeros(self.count, dtype=torch.bool)
        one[torch.randint(self.count, (1,), generator=self.generator)] = True
        weight = self.recipe.run(self._changed(one, "zero"), {})
        return bool(self._parts_where(weight != 0)[one].any())

    def _tried(self, chosen: Tensor, change: Change) -> bool:
        missed = chosen
        for _ in range(_DRAWS if change == "redrawn" else 1):
            weight = self.recipe.run(self._changed(chosen, change), self.statistics, hold=self.hold)
            changed = self._parts_that_differ(weight)
            if changed[~chosen].any():
                return False
            missed = missed & ~changed
            if not missed.any():
                return change == "redrawn" or not self._parts_where(weight != 0)[chosen].any()
        return False

    def _parts_that_differ(self, weight: Tensor) -> Tensor:
        """Return which parts are others than before, by more than rounding; of a short one, that is less."""
        tolerance: Tensor = torch.finfo(weight.dtype).eps ** 0.5 * self._largest(self.weight)
        return (self._largest(weight - self.weight) <= tolerance).logical_not()  # what is no number differs

    def _largest(self, weight: Tensor) -> Tensor:
        """Return the absolute value of the largest entry of every part."""
        numbers, sizes = self.numbers, weight.abs()
        alike = [dim for dim, count in enumerate(numbers.shape) if count == 1 < sizes.shape[dim]]
        sizes = (sizes.amax(alike, keepdim=True) if alike else sizes).double().cpu()
        return torch.zeros(self.count, dtype=torch.double).scatter_reduce_(
            0, numbers.expand(sizes.shape).reshape(-1), sizes.reshape(-1), "amax"
        )

    def _changed(self, chosen: Tensor, change: Change) -> dict[int, Tensor]:
        """Return what goes in, with the entries of the chosen parts changed."""
        numbers = dict(self.recipe.numbers)
        for key, owner in self.owners.items():
            flat, own = numbers[key], chosen[owner.clamp(min=0)] & (owner >= 0)
            factor = self._smaller(flat) if change == "redrawn" else 0
            numbers[key] = torch.where(own.to(flat.device), flat * factor, flat)
        return numbers

    def _smaller(self, flat: Tensor) -> Tensor:
        """Return factors so far below 1 that no rounding hides them, each another; growing could saturate a part."""
        return (-0.5 - torch.randn(flat.shape, generator=self.generator).abs()).exp().to(flat)

    def _parts_where(self, mask: Tensor) -> Tensor:
        found = torch.zeros(self.count, dtype=torch.bool)
        found[self.numbers.expand(mask.shape)[mask.cpu()]] = True
        return found


def _complete(owners: Tensor) -> None:
    """Give entries that happen to influence nothing (dropped, below a threshold) to the owner of the rest of their row.

    Args:
        owners: The owners of all entries of a tensor; changed in place if the rows in one of its dimensions have one.
    """
    for dim in range(owners.ndim):
        rows = owners.movedim(dim, 0).reshape(owners.shape[dim], -1)
        owner = rows.amax(1, keepdim=True)
        if (owner >= 0).all() and bool(((rows == owner) | (rows == _UNREACHED)).all()):
            owners.copy_(owner.reshape([-1 if d == dim else 1 for d in range(owners.ndim)]).expand(owners.shape))
            return


def follow_back(run: Execution) -> None:
    """Give the rows and columns of every computed weight to the entries of the parameters that make them.

    Args:
        run: The pass, all runs done. Units of which this cannot be said are spoiled, each with the reason.
    """
    along: dict[tuple[int, Source], Orientation] = {}
    known: dict[object, tuple[Tensor, Parts | None]] = {}
    made = [(use, steps := run.tape.slice(use.weight, use.end), leaves(steps, run.sources)) for use in run.derived]
    for use, steps, sources in sorted(made, key=lambda item: item[0].role):  # rows first: they tell the orientation
        labels = use.labels
        if use.role == "out":
            labels = torch.where(labels > FOREIGN, run.labels.find(labels), labels)
            if not (labels > FOREIGN).any():
                continue
        values, numbers = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        key = use.role, geometry(use.weight)[:3], tuple(s.func for s in steps), parts_read(steps, run.sources)
        if key not in known or not torch.equal(known[key][0], numbers):
            known[key] = numbers, _parts(Recipe.of(run, use), numbers, use.role)
        parts = known[key][1]
        for source in sources:
            source.used_by = source.used_by or use.path
            source.factor = source.factor or operations(steps)
            if parts is None:
                _give_up(run, use, steps, source)
            else:
                _hand_over(run, use, source, parts, values, along)
        if parts is not None and parts.hold:
            run.labels.couple(labels[labels > FOREIGN])
    reading = {use.source for use in run.uses.values() if use.role == "out" and (use.labels > FOREIGN).any()}
    for use, _, sources in made:
        if use.role == "out" and use.labels.max() == FOREIGN:
            for source in reading.intersection(sources):
                source.fault = source.problem or "reads units in one place and makes a weight that reads none elsewhere"


def _parts(recipe: Recipe, numbers: Tensor, role: Role) -> Parts | None:
    """Return who owns the rows or columns of a weight; None if nobody does."""
    with suppress(RuntimeError):  # the operations cannot be run again or not be differentiated
        for hold in (False, True) if role == "out" else (False,):
            parts = Parts(recipe, numbers, hold)
            if parts.can_be("redrawn" if role == "in" else "zero") or (role == "out" and parts.one_can_be_zero()):
                return parts
    return None


def _give_up(run: Execution, use: DerivedUse, steps: list[Step], source: Source) -> None:
    """Spoil units of which no entry of a parameter can be said to be theirs."""
    how = operations(steps)
    if use.role == "in":
        source.undivided = (
            f"its weight is computed from parameters ({how}), none of whose entries belongs to one unit alone"
        )
        run.spoil(use.labels, source.undivided)
    else:
        why = f"the weight of {use.path or source.path}, which reads it, is computed from parameters ({how}), "
        run.spoil(use.labels, why + "none of whose entries, set to zero, silences one unit alone")


def _hand_over(
    run: Execution,
    use: DerivedUse,
    source: Source,
    parts: Parts,
    values: Tensor,
    along: dict[tuple[int, Source], Orientation],
) -> None:
    """Note which entries of a parameter a computed weight makes its rows or columns of."""
    owners = parts.owned(source)
    if (owners < 0).all():
        return
    shown = compact(torch.where(owners < 0, NOBODY if use.role == "in" else UNREAD, values[owners.clamp(min=0)]))
    counted = frozenset(dim for dim, size in enumerate(owners.shape) if size > 1)
    varying = frozenset(dim for dim in counted if shown.shape[dim] > 1)
    here = along.setdefault((id(use.weight), source), counted - varying if use.role == "in" else varying)
    source.orientations.add(here)
    source.calls[use.run] += use.role == "in"
    source.shown = True
    run.record(source, use.role, here, shown, use.time)
