"""One utility per weight, for the gradients of any optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.optim.blocks import Block, Treated, Workspace, blocks, gathered, precise_dtype
from lightning_plasticity.optim.gated import Curvature, refuse
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.parameters import check_shapes
from lightning_plasticity.optim.perturbation import divisors, gates, observed, through_gate
from lightning_plasticity.optim.settings import Perturbation


class WeightGates:
    """The running utilities of weights and the gates they make.

    Args:
        settings: How utilities become gates.
        parameters: The parameters to gate; None gates all.
        curvature: Second-order information; None for first order.
    """

    kind = "weights"

    def __init__(
        self, settings: Perturbation, parameters: Iterable[Tensor] | None, curvature: Curvature | None
    ) -> None:
        self.settings, self.curvature = settings, curvature
        self.memory: dict[Tensor, dict[str, Any]] = {}
        self.choose(parameters)

    def choose(self, parameters: Iterable[Tensor] | None) -> None:
        """Gate these parameters from now on; None gates all."""
        self.chosen = None if parameters is None else set(parameters)

    def apply(self, optimizer: Optimizer, noise: NoiseSource) -> None:
        """Observe the gradients and gate them, in place.

        Args:
            optimizer: The optimizer whose parameters have the gradients.
            noise: Source of the noise.
        """
        treated = [self._observed(p, group) for p, group in self._gated(optimizer) if p.grad is not None and p.numel()]
        cut = self._blocks(treated)
        largest, workspace = divisors(observed(cut)), Workspace()
        for block in cut:
            direction = through_gate(block, block.precise("gradient"), largest, noise, workspace)
            if block.group.get("maximize", False):
                direction = list(torch._foreach_neg(direction))
            for target, value in zip(block["target"], direction, strict=True):
                target.copy_(value)

    def scaled(self, optimizer: Optimizer) -> dict[Tensor | str, Tensor]:
        """Return the scaled utilities by parameter.

        Args:
            optimizer: The optimizer whose parameters are asked for.

        Returns:
            One tensor of the shape of the parameter for each that has been gated before.
        """
        known = [(p, group) for p, group in self._gated(optimizer) if p in self.memory]
        cut = [Block.join([(one, one.tensors)]) for one in (self._now(*each) for each in known)]
        largest = divisors(cut)
        scale = self.settings.gate_scale
        return {p: 1 - gates(block, largest)[0] / scale for (p, _), block in zip(known, cut, strict=True)}

    def gated(self, optimizer: Optimizer) -> set[Tensor]:
        """Return the parameters of an optimizer that are gated."""
        return {parameter for parameter, _ in self._gated(optimizer)}

    def _gated(self, optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
        return [
            (parameter, group)
            for group in optimizer.param_groups
            if group.get("gated", True)
            for parameter in group["params"]
            if self.chosen is None or parameter in self.chosen
        ]

    def _observed(self, parameter: Tensor, group: dict[str, Any]) -> Treated:
        """Return a parameter that has a gradient, one step older."""
        refuse(parameter, "a parameter of the optimizer", "UtilityGate")
        diagonal = None if self.curvature is None else self.curvature.take(parameter)
        if parameter not in self.memory:
            utility = torch.zeros_like(parameter, dtype=precise_dtype(parameter), memory_format=torch.preserve_format)
            self.memory[parameter] = {"step": 0, "utility": utility.detach()}
        self.memory[parameter]["step"] += 1
        one = self._now(parameter, group)
        gradient, maximize = parameter.grad, group.get("maximize", False)
        assert gradient is not None  # ruff: ignore[assert] - the caller chose those that have one
        one.tensors.update(target=gradient, gradient=-gradient if maximize else gradient)
        if diagonal is not None:
            one.tensors["curvature"] = -diagonal if maximize else diagonal
        return one

    def _now(self, parameter: Tensor, group: dict[str, Any]) -> Treated:
        memory = self.memory[parameter]
        utility = memory["utility"] = memory["utility"].to(parameter.device)  # restored before the model moved
        tensors = {"weight": parameter.detach(), "utility": utility}
        correction = gathered(self.settings.decay_rate, memory["step"])
        return Treated(tensors, self.settings, True, correction, memory["step"], group)

    @staticmethod
    def _blocks(treated: list[Treated]) -> list[Block]:
        return [
            block
            for foreach in (False, True)
            for block in blocks([t for t in treated if t.tensors["weight"].is_cuda == foreach], foreach=foreach)
        ]

    def state_dict(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return clock and utility of every parameter, in the optimizer's order; empty for one not gated so far."""
        return [dict(self.memory.get(parameter, {})) for parameter in _parameters(optimizer)]

    def load_state_dict(self, optimizer: Optimizer, state: list[dict[str, Any]]) -> None:
        """Take over clocks and utilities.

        Args:
            optimizer: The optimizer whose parameters they belong to.
            state: What :meth:`state_dict` returned.

        Raises:
            StateMismatchError: If number or shapes differ.
        """
        parameters = _parameters(optimizer)
        check_shapes("utilities", [part["utility"] if part else None for part in state], parameters)
        self.memory = {
            p: {"step": part["step"], "utility": part["utility"].to(p.device, precise_dtype(p), copy=True)}
            for p, part in zip(parameters, state, strict=True)
            if part
        }


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
