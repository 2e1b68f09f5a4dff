"""The optimizer step that UPGD and AdaUPGD share: collect, observe, find the divisor, descend through the gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, cast, overload, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedOptimizerError,
    check_choice,
    check_entries,
    check_flags,
    check_number,
)
from lightning_plasticity.optim.blocks import Block, Treated, Workspace, blocks, gathered, precise_dtype
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.perturbation import divisors, observed, through_gate
from lightning_plasticity.optim.settings import Perturbation

_SETTINGS = ("noise_std", "decay_rate", "scaling", "correction", "protecting", "gate_scale")


@runtime_checkable
class Curvature(Protocol):
    """Whatever knows the diagonal of the Hessian of the loss, such as :class:`~lightning_plasticity.optim.HesScale`."""

    def take(self, parameter: Tensor) -> Tensor:
        """Return the entries that belong to ``parameter`` and to its present gradient, and forget them.

        Args:
            parameter: The parameter.

        Returns:
            Its part of the diagonal, of its shape; zeros where nothing is known.
        """


def check_curvature(curvature: object) -> None:
    """Refuse a source of curvature that is none.

    Args:
        curvature: The value of the argument ``curvature``.

    Raises:
        InvalidArgumentError: If it is refused.
    """
    is_source = isinstance(curvature, Curvature) and not isinstance(curvature, type)
    if curvature is not None and not is_source:
        raise InvalidArgumentError(
            f"curvature={curvature!r}",
            "None, or a source of second derivatives such as HesScale",
            "Pass `hesscale = HesScale(model)`, and let losses go backward by `hesscale.watch(loss).backward()`; "
            "the callback UPGDPerturbation takes 'hesscale' and does both",
        )


def refuse(parameter: Tensor, place: str, who: str) -> None:
    """Refuse a parameter whose gradient cannot be perturbed entry by entry.

    Args:
        parameter: The parameter.
        place: How to call it in the message.
        who: Name of the class that refuses.

    Raises:
        UnsupportedOptimizerError: If the parameter is complex, or its gradient sparse.
    """
    if parameter.is_complex():
        raise UnsupportedOptimizerError(
            f"{place} is complex ({parameter.dtype})",
            f"real parameters, whose entries {who} can order by utility",
            "Store real and imaginary part as two real parameters",
        )
    if parameter.grad is not None and parameter.grad.is_sparse:
        raise UnsupportedOptimizerError(
            f"{place} has a sparse gradient",
            f"dense gradients, because {who} adds noise to every entry",
            "Use nn.Embedding(..., sparse=False), or another optimizer for this parameter",
        )


class GatedOptimizer(Optimizer, ABC):
    """An optimizer whose direction of descent passes the gate of UPGD; see its subclasses.

    Args:
        params: Parameters or parameter groups.
        defaults: Hyper-parameters of a group.
        curvature: Second-order information; None for first order.
        seed: Seed of the noise.
    """

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], curvature: Curvature | None, seed: int | None
    ) -> None:
        check_curvature(curvature)
        self.noise = NoiseSource(seed)
        self.curvature = curvature
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group and check its hyper-parameters.

        Args:
            param_group: ``params`` and any hyper-parameters that differ from the defaults.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not isinstance(group["lr"], Tensor):
            check_number("lr", group["lr"], "[0, inf)")
        check_number("weight_decay", group["weight_decay"], "[0, inf)")
        check_flags(**{name: group[name] for name in ("gated", "maximize", "capturable")})
        check_choice("foreach", group["foreach"], (True, False, None))
        Perturbation(**{name: group[name] for name in _SETTINGS})
        for i, parameter in enumerate(group["params"]):
            refuse(parameter, f"parameter {i} of group {len(self.param_groups) - 1}", type(self).__name__)

    @abstractmethod
    def descent(self, block: Block) -> list[Tensor]:
        """Return the direction of descent before the gate, one tensor per tensor of the block, not to be changed."""

    @abstractmethod
    def extra_state(self) -> tuple[str, ...]:
        """Return the names of the running statistics beside the utility; all start at zero."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: Re-evaluates the model and returns the loss.

        Returns:
            What the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        treated = [one for group in self.param_groups for one in self._collect(group)]
        cut = [block for foreach in (False, True) for block in blocks(_where(treated, foreach), foreach=foreach)]
        largest, workspace = divisors(observed(cut)), Workspace()
        for block in cut:
            direction = self.descent(block)
            if block.gated:
                direction = through_gate(block, direction, largest, self.noise, workspace)
            _descend(block, direction)
        return loss

    def _collect(self, group: dict[str, Any]) -> list[Treated]:
        """Return the parameters of a group that have a gradient, with their state one step older."""
        settings = Perturbation(**{name: group[name] for name in _SETTINGS})
        extra, treated = self.extra_state(), []
        for i, parameter in enumerate(group["params"]):
            gradient = parameter.grad
            if gradient is None or parameter.numel() == 0:
                continue
            if gradient.is_sparse:
                refuse(parameter, f"parameter {i} of a group", type(self).__name__)
            diagonal = self.curvature.take(parameter) if self.curvature is not None and group["gated"] else None
            state = self.state[parameter] or self._start(parameter, group)
            state["step"] += 1
            weight = gathered(group["decay_rate"], state["step"], capturable=group["capturable"])
            gradient = -gradient if group["maximize"] else gradient
            tensors = {"weight": parameter.detach(), "gradient": gradient, "utility": state["utility"]}
            for name in extra:
                tensors[name] = state[name]
            if diagonal is not None:
                tensors["curvature"] = -diagonal if group["maximize"] else diagonal
            treated.append(Treated(tensors, settings, group["gated"], weight, state["step"], group))
        return treated

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter before its first step, and keep it."""
        state: dict[str, Any] = self.state[parameter]
        state["step"] = torch.zeros((), device=parameter.device if group["capturable"] else "cpu")
        for name in ("utility", *self.extra_state()):
            state[name] = torch.zeros_like(
                parameter, dtype=precise_dtype(parameter), memory_format=torch.preserve_format
            )
        return state

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"noise": self.noise, "curvature": self.curvature}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, the state of its noise (``"noise"``) included; plain tensors only."""
        return super().state_dict() | {"noise": self.noise.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            StateMismatchError: If the state is that of another optimizer.
        """
        check_entries(state_dict, "state", "param_groups", "noise")
        remembered = {"step", "utility", *self.extra_state()}
        if foreign := [state for state in state_dict["state"].values() if set(state) != remembered]:
            raise StateMismatchError(
                f"a state that remembers {sorted(foreign[0])} of every parameter",
                f"one of {type(self).__name__}, which remembers {sorted(remembered)}",
                "Load the state of the optimizer that wrote it, or start afresh",
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "noise"})
        self.noise.load_state_dict(state_dict["noise"])
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for i, parameter in zip(saved, parameters, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if name != "step":  # the base class has rounded the statistics to the dtype of the parameter
                    self.state[parameter][name] = value.to(parameter.device, precise_dtype(parameter), copy=True)


def _descend(block: Block, direction: list[Tensor]) -> None:
    weights, lr, weight_decay = block["weight"], block.group["lr"], block.group["weight_decay"]
    if weight_decay and block.cached and not isinstance(lr, Tensor) and weights[0].dtype == direction[0].dtype:
        nothing: list[Tensor | None] = [None] * len(weights)
        sgd(weights, direction, nothing, lr=lr, weight_decay=weight_decay, momentum=0.0, dampening=0.0,
            nesterov=False, maximize=False, fused=True)  # fmt: skip
        return  # in one sweep over the weights
    direction = [d.to(w.dtype) for d, w in zip(direction, weights, strict=True)]
    if weight_decay:
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
    if isinstance(lr, Tensor):  # without reading it
        torch._foreach_add_(weights, torch._foreach_mul(direction, -lr))
    else:
        torch._foreach_add_(weights, direction, alpha=-lr)


def _where(treated: list[Treated], foreach: bool) -> list[Treated]:
    """Return the parameters that are to be treated all at once, or one after the other."""

    def joined(one: Treated) -> bool:
        wish = one.group["foreach"]
        return one.tensors["weight"].is_cuda if wish is None else cast("bool", wish)

    return [one for one in treated if joined(one) == foreach]
