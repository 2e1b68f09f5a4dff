"""One utility per unit, for the gradients of all that writes the unit.

Letters: ``U`` units of a group, ``K`` features per unit in a slot, ``E`` the remaining dimensions of the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.errors import StateMismatchError, UnsupportedModelError
from lightning_plasticity.functional.upgd import weight_utility
from lightning_plasticity.optim.blocks import Block, gathered
from lightning_plasticity.optim.gated import Curvature, refuse
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.perturbation import divisors, gates
from lightning_plasticity.optim.settings import Perturbation
from lightning_plasticity.units import Slot, UnitGroup, UnitMap
from lightning_plasticity.units.links import Links
from lightning_plasticity.units.unit_map import checked_groups


@dataclass
class _Memory:
    """What is remembered of a group: how often its units were observed, and their running utility."""

    step: int
    utility: Tensor


class UnitGates:
    """The running utilities of units and the gates they make for everything that writes them.

    Args:
        settings: How utilities become gates.
        units: The units.
        curvature: Second-order information; None for first order.

    Raises:
        InvalidArgumentError: If ``units`` are none.
        StateMismatchError: If they are of a model that has changed; also when it changes later on.
        UnsupportedModelError: If there are none, or all weights that read a group are frozen.
    """

    kind = "units"

    def __init__(
        self, settings: Perturbation, units: UnitMap | Sequence[UnitGroup], curvature: Curvature | None
    ) -> None:
        self.settings, self.curvature = settings, curvature
        self.memory: dict[str, _Memory] = {}
        self.regroup(units)

    def regroup(self, units: UnitMap | Sequence[UnitGroup]) -> None:
        """Take other units; what is remembered of a group goes on if a new one has its name and size.

        Args:
            units: The units.

        Raises:
            InvalidArgumentError: If ``units`` are none.
            StateMismatchError: If they are of a model that has changed.
            UnsupportedModelError: If there are none, or all weights that read a group are frozen.
        """
        groups = checked_groups(units)
        deaf = [g.name for g in groups if not any(slot.tensor.requires_grad for slot in g.outgoing)]
        if deaf:
            raise UnsupportedModelError(
                f"the units of {deaf} are read by frozen weights only",
                "a reader with gradients, from which the utility of a unit is known",
                "Leave these groups out with `exclude`, or use one utility per weight",
            )
        fresh = {g.name: _Memory(0, torch.zeros(g.size, dtype=_precision(g))) for g in groups}
        known = {name: part for name, part in self.memory.items() if name in fresh}
        self.memory = fresh | {n: part for n, part in known.items() if part.utility.shape == fresh[n].utility.shape}
        self.groups, self._links = groups, Links(units)

    def apply(self, optimizer: Optimizer, noise: NoiseSource) -> None:
        """Observe the gradients of the readers and gate those of the writers, in place.

        Args:
            optimizer: The optimizer whose parameters are gated; readers may belong to another one.
            noise: Source of the noise.

        Raises:
            StateMismatchError: If a layer of the units was exchanged.
        """
        self._links.check()
        gated = {p: group.get("maximize", False) for group in optimizer.param_groups if group.get("gated", True)
                 for p in group["params"]}  # fmt: skip
        readers = {slot.tensor: None for group in self.groups for slot in group.outgoing}
        utilities = {p: self._weights(p, maximize=gated.get(p, False)) for p in readers if p.grad is not None}
        seen = [group for group in self.groups if any(slot.tensor in utilities for slot in group.outgoing)]
        for group in seen:
            self._observe(group, utilities)
        opened = self._gates(seen)
        written: dict[Tensor, list[tuple[Slot, Tensor]]] = {}
        for group in seen:
            for slot in group.incoming + group.norms:
                if slot.tensor in gated and slot.tensor.grad is not None:
                    written.setdefault(slot.tensor, []).append((slot, opened[group.name]))
        for parameter, parts in written.items():
            self._pass(parameter, parts, noise)

    def gated(self, optimizer: Optimizer) -> set[Tensor]:
        """Return the parameters of an optimizer that are gated: those that write units."""
        writers = {slot.tensor for group in self.groups for slot in group.incoming + group.norms}
        return {
            parameter
            for group in optimizer.param_groups
            if group.get("gated", True)
            for parameter in group["params"]
            if parameter in writers
        }

    def _weights(self, parameter: Tensor, *, maximize: bool) -> Tensor:
        """Return the utilities of the weights of a reader."""
        refuse(parameter, "a weight that reads units", "UtilityGate")
        assert parameter.grad is not None  # ruff: ignore[assert] - the caller chose those that have one
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        curvature = None if self.curvature is None else self.curvature.take(parameter).to(dtype)
        utility = weight_utility(parameter.detach().to(dtype), parameter.grad.to(dtype), curvature)
        return -utility if maximize else utility

    def _observe(self, group: UnitGroup, utilities: dict[Tensor, Tensor]) -> None:
        memory, rate = self.memory[group.name], self.settings.decay_rate
        device = group.incoming[0].tensor.device
        parts = [_per_unit(s, utilities[s.tensor]).to(device) for s in group.outgoing if s.tensor in utilities]
        memory.step += 1
        memory.utility = memory.utility.to(device).mul_(rate).add_(torch.stack(parts).sum(0), alpha=1 - rate)

    def _gates(self, groups: list[UnitGroup]) -> dict[str, Tensor]:
        """Return the gates of all units, ``[U]`` per group."""
        cut = [self._block(group) for group in groups]
        largest = divisors(cut)
        return {group.name: gates(block, largest)[0] for group, block in zip(groups, cut, strict=True)}

    def _block(self, group: UnitGroup) -> Block:
        memory = self.memory[group.name]
        correction = gathered(self.settings.decay_rate, memory.step)
        return Block({"utility": [memory.utility]}, self.settings, True, [correction], [memory.step], {})

    def _pass(self, parameter: Tensor, parts: list[tuple[Slot, Tensor]], noise: NoiseSource) -> None:
        """Let gradient and noise of one parameter through the gates of the units it writes."""
        gradient = parameter.grad
        assert gradient is not None  # ruff: ignore[assert] - the caller chose those that have one
        refuse(parameter, "a parameter that writes units", "UtilityGate")
        protecting, std = self.settings.protecting, self.settings.noise_std
        through, kept = _spread(parameter, parts)
        direction = gradient * kept if protecting else gradient.to(through.dtype)
        if std > 0:
            direction = direction + noise.draw(torch.empty_like(parameter, dtype=through.dtype), std) * through
        gradient.copy_(direction)

    def scaled(self, optimizer: Optimizer) -> dict[Tensor | str, Tensor]:
        """Return the scaled utilities by group name.

        Args:
            optimizer: Not asked.

        Returns:
            One tensor ``[U]`` per group that has been observed before.
        """
        known = [group for group in self.groups if self.memory[group.name].step]
        return {name: 1 - gate / self.settings.gate_scale for name, gate in self._gates(known).items()}

    def state_dict(self, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
        """Return clock and utilities of every group, by name."""
        return {name: {"step": part.step, "utility": part.utility} for name, part in self.memory.items()}

    def load_state_dict(self, optimizer: Optimizer, state: dict[str, dict[str, Any]]) -> None:
        """Take over clocks and utilities.

        Args:
            optimizer: Not asked.
            state: What :meth:`state_dict` returned.

        Raises:
            StateMismatchError: If it belongs to other groups.
        """
        saved = {name: part["utility"].shape[0] for name, part in state.items()}
        present = {group.name: group.size for group in self.groups}
        if saved != present:
            raise StateMismatchError(
                f"saved utilities of the units {saved}",
                f"those of the model, {present}",
                "Resume with the model, include and exclude that wrote the state, or drop it",
            )
        for name, part in state.items():
            self.memory[name] = _Memory(part["step"], part["utility"].to(self.memory[name].utility, copy=True))


def _precision(group: UnitGroup) -> torch.dtype:
    return torch.promote_types(group.incoming[0].tensor.dtype, torch.float32)


def _per_unit(slot: Slot, utility: Tensor) -> Tensor:
    """Return the sum of ``utility``, shaped like the slot's tensor, over the entries of every unit, ``[U]``."""
    by_feature = slot.view(utility)
    rest = tuple(range(len(slot.dims), by_feature.ndim))
    return (by_feature.sum(rest) if rest else by_feature)[slot.tables(utility.device)].sum(1)


def _spread(parameter: Tensor, parts: list[tuple[Slot, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the gates of all entries of a parameter, for the noise and for the gradient.

    Entries that write no unit get no noise (0) and keep their gradient (1).
    """
    slot, gate = parts[0]
    if len(parts) == 1 and slot.dims == (0,) and slot.features == 1:
        table = slot.tables(parameter.device)[0].flatten()
        if table.shape[0] == parameter.shape[0]:
            rows = torch.empty_like(gate).index_copy_(0, table, gate)
            rows = rows.reshape(-1, *(1 for _ in parameter.shape[1:]))
            return rows, rows
    through = torch.zeros_like(parameter, dtype=gate.dtype)
    kept = torch.ones_like(through)
    for slot, gate in parts:
        rest = (1,) * (slot.view(through).ndim - len(slot.dims))
        for target in (through, kept):
            slot.assign(torch.arange(slot.size), gate.reshape(-1, 1, *rest), tensor=target)
    return through, kept
