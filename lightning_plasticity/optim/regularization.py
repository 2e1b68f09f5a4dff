"""What is done to weights after an optimizer step: decays toward zero or the initial weights."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_plasticity.errors import (
    InvalidArgumentError,
    check_choice,
    check_entries,
    check_number,
    check_optimizer,
)
from lightning_plasticity.optim.parameters import check_shapes, checked_parameters


class AfterStep(ABC):
    """Acts after every step that an optimizer really takes; a step that a gradient scaler skips does not count.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self._handle: RemovableHandle | None = None

    @abstractmethod
    def act(self) -> None:
        """Change the weights, in place."""

    def attach(self) -> Self:
        """Act after every ``optimizer.step`` from now on.

        Returns:
            The engine itself.
        """
        self.detach()
        self._handle = self.optimizer.register_step_post_hook(self._after_step)
        return self

    def detach(self) -> None:
        """Leave the optimizer alone."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # set while a fused optimizer skips on the device
        if found_inf is None or not bool(found_inf):
            self.act()


class Decay(AfterStep):
    r"""Decoupled decay of the weights, toward zero or toward where they started.

    With the learning rate :math:`a` of the parameter's group and the distance :math:`d = w - w_0` (``w_0 = 0`` toward
    zero): ``norm=2`` takes a gradient step on :math:`\tfrac{\lambda}{2} d^2`, ``norm=1`` the proximal step on
    :math:`\lambda |d|`, which ends exactly at the target. Neither passes the optimizer's moments. Like the decay of
    torch's optimizers it leaves parameters without a gradient alone.

    Args:
        optimizer: The optimizer.
        strength: The factor :math:`\lambda`, at least 0. With ``norm=2`` there is a warning if it exceeds the inverse
            of the learning rate, since steps then lead past the target.
        norm: 1 or 2.
        toward: ``"zero"`` or ``"initial"``: the weights at construction (or those of a loaded state); those of a
            parameter that the optimizer gets later, after its first step.
        parameters: The parameters to treat; None treats all.

    Raises:
        InvalidArgumentError: If a value is outside its range.

    References:
        Kumar, Marklund and Van Roy, `Maintaining Plasticity in Continual Learning via Regenerative Regularization`
        (CoLLAs 2024), for ``toward="initial"``; there the penalty is :math:`\lambda d^2`, without the half, and part of
        the loss.

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(2.0)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> layer(torch.zeros(1, 1)).sum().backward()
        >>> with Decay(optimizer, 1.0):
        ...     optimizer.step()
        >>> round(layer.weight.item(), 4)
        1.8
    """

    def __init__(
        self,
        optimizer: Optimizer,
        strength: float,
        *,
        norm: Literal[1, 2] = 2,
        toward: Literal["zero", "initial"] = "zero",
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        check_number("strength", strength, "[0, inf)")
        check_choice("norm", norm, (1, 2))
        check_choice("toward", toward, ("zero", "initial"))
        super().__init__(optimizer)
        self.strength, self.norm, self.toward = strength, norm, toward
        chosen = checked_parameters(parameters)
        self.chosen = None if chosen is None else set(chosen)
        self.initial: dict[Tensor, Tensor] = {}
        if toward == "initial":
            for parameter, _ in self._treated():
                self._initial(parameter)
        self._has_warned = False

    def act(self) -> None:
        """Let every treated parameter that has a gradient decay once."""
        for parameter, group in self._treated():
            if parameter.grad is not None:
                rate = group["lr"] * self.strength
                self._warn_of_overshoot(rate)
                if self.toward == "zero":
                    _pull(parameter, None, rate, self.norm)
                else:
                    _pull(parameter, self._initial(parameter).to(parameter.device), rate, self.norm)

    def _initial(self, parameter: Tensor) -> Tensor:
        """Return where a parameter started: at construction, or when the optimizer got it."""
        if parameter not in self.initial:
            self.initial[parameter] = parameter.detach().clone()
        return self.initial[parameter]

    def _warn_of_overshoot(self, rate: float | Tensor) -> None:
        """Warn once if a step leads past the target; a learning rate on a device is not read."""
        is_known = not isinstance(rate, Tensor) or rate.device.type == "cpu"
        if self.norm == 1 or self._has_warned or not is_known or rate <= 1:
            return
        self._has_warned = True
        warning = InvalidArgumentError(
            f"a decay of {type(self.optimizer).__name__} with lr * strength = {float(rate):.3g}, whose steps lead past "
            f"{'zero' if self.toward == 'zero' else 'the initial weights'}" + ", farther each time" * bool(rate > 2),
            "at most 1, which leads there in one step",
            f"Pass a `strength` below {1 / float(rate) * self.strength:.3g}, or lower the learning rate",
        )
        warnings.warn(str(warning), stacklevel=2)

    def _treated(self) -> list[tuple[Tensor, dict[str, Any]]]:
        return [
            (parameter, group)
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if self.chosen is None or parameter in self.chosen
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the initial weights, in the optimizer's order; empty toward zero."""
        return {"initial": [self._initial(p) for p, _ in self._treated()] if self.toward == "initial" else []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Decay toward the weights of a saved state from now on.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            StateMismatchError: If its weights are not those of this optimizer.
        """
        check_entries(state_dict, "initial")
        saved, treated = state_dict["initial"], [p for p, _ in self._treated()] if self.toward == "initial" else []
        check_shapes("initial weights", saved, treated)
        self.initial = {p: t.to(p, copy=True) for p, t in zip(treated, saved, strict=True)}


def _pull(parameter: Tensor, target: Tensor | None, rate: float | Tensor, norm: int) -> None:
    """Bring a parameter nearer to ``target`` (None: zero), in place."""
    if norm == 2 and target is None:
        parameter.mul_(1 - rate)
        return
    distance = parameter.clone() if target is None else parameter - target
    step = distance * rate if norm == 2 else distance.sign() * distance.abs().clamp_max(rate)
    parameter.sub_(step)
