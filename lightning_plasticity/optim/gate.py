"""The engine that puts UPGD in front of any optimizer: it changes gradients just before the step, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedOptimizerError, check_entries
from lightning_plasticity.optim.gate_arguments import refuse_unsuitable
from lightning_plasticity.optim.gated import Curvature, check_curvature
from lightning_plasticity.optim.gates import Gates
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.parameters import checked_parameters
from lightning_plasticity.optim.settings import Correction, Perturbation, Scaling
from lightning_plasticity.optim.unit_gates import UnitGates
from lightning_plasticity.optim.weight_gates import WeightGates
from lightning_plasticity.units import UnitGroup, UnitMap


class UtilityGate:
    r"""Holds back and perturbs gradients by the utility of what they would change, before any optimizer.

    Per weight: :math:`g \leftarrow (g + \xi)(1 - S)` with the scaled utility :math:`S` of the weight. Per unit, if
    ``units`` are given: the utility is that of the unit, and all that writes the unit (rows of weights, biases, norm
    parameters) is gated together; parameters that write no unit, such as those of the output layer, pass unchanged.

    In front of plain gradient descent this is :class:`~lightning_plasticity.optim.UPGD`, to the bit. In front of Adam
    it is not :class:`~lightning_plasticity.optim.AdaUPGD`, where the noise bypasses Adam's normalisation.

    Args:
        optimizer: The optimizer; parameter groups with an entry ``"gated": False`` pass unchanged.
        noise_std: Standard deviation of the noise, on the scale of the gradient; 0 draws none.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        scaling: What a utility is divided by: the largest of all (``"global"``), the norm over the incoming weights of
            the unit, or over the units of the group (``"local"``), or the largest absolute value of all (``"abs"``).
            ``"none"`` leaves utilities out: the gradient passes with noise, as in perturbed gradient descent. *All* are
            those of this optimizer, whatever other gates see.
        correction: ``"paper"`` or ``"reference"``, see :class:`~lightning_plasticity.optim.UPGD`.
        protecting: Whether the gradient is held back as well, or only the noise.
        gate_scale: Factor of the gate: 1 leaves half of the gradient of a weight without utility, 2 all of it.
        units: The units, for one utility per unit; None for one per weight.
        parameters: The parameters to gate, for one utility per weight; None gates all of the optimizer. Not with units.
        curvature: Second-order information; None for first order.
        seed: Seed of the noise, equal on all processes; None takes torch's global seed, and that of process 0 if
            ``torch.distributed`` runs.

    Raises:
        InvalidArgumentError: If a setting is outside its range, ``optimizer`` is none, or nothing of it is to be gated.
        StateMismatchError: If ``units`` are of a model that has changed; at a later step as well.
        UnsupportedOptimizerError: If the optimizer evaluates the loss several times in a step (LBFGS), or is itself one
            of UPGD.
        UnsupportedModelError: If ``units`` has no group, or they are read by frozen weights only, so that their utility
            is unknown.

    Note:
        The utility of a unit is the sum of the utilities of its outgoing weights. For units that linear layers and
        convolutions read this is identical to a multiplicative gate parameter behind the unit, as in the published
        code (see :func:`~lightning_plasticity.functional.upgd.unit_utility`), but needs no change of the model, works
        with any number of readers, and accumulates, unscales and averages over processes as the gradients do.

    Example:
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> gate = UtilityGate(optimizer, noise_std=0.01).attach()
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> gate.detach()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        noise_std: float = 1e-3,
        decay_rate: float = 0.999,
        scaling: Scaling = "global",
        correction: Correction = "paper",
        protecting: bool = True,
        gate_scale: float = 1.0,
        units: UnitMap | Sequence[UnitGroup] | None = None,
        parameters: Iterable[Tensor] | None = None,
        curvature: Curvature | None = None,
        seed: int | None = None,
    ) -> None:
        refuse_unsuitable(optimizer)
        check_curvature(curvature)
        if units is not None and parameters is not None:
            raise InvalidArgumentError(
                "both `units` and `parameters`",
                "units, for one utility per unit, or parameters, for one per weight",
                "Leave one of them out; `units.select(...)` chooses among units",
            )
        self.settings = Perturbation(noise_std, decay_rate, scaling, correction, protecting, gate_scale)
        self.optimizer = optimizer
        self.noise = NoiseSource(seed)
        self.gates: Gates = (
            WeightGates(self.settings, checked_parameters(parameters), curvature)
            if units is None
            else UnitGates(self.settings, units, curvature)
        )
        self._handle: RemovableHandle | None = None
        self._refuse_nothing(optimizer)

    def attach(self) -> Self:
        """Gate the gradients in every ``optimizer.step`` from now on; with a closure, after it was evaluated.

        Returns:
            The gate itself.

        Raises:
            UnsupportedOptimizerError: If another gate that is attached gates some of the same parameters.
        """
        self.detach()
        self.refuse_overlap(attached_gates(self.optimizer))
        self._handle = self.optimizer.register_step_pre_hook(self._before_step)
        return self

    def detach(self) -> None:
        """Leave the optimizer alone; the utilities stay, and :meth:`attach` continues with them."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def rebind(self, optimizer: Optimizer) -> None:
        """Go on with another optimizer of the same parameters; utilities and noise continue.

        Args:
            optimizer: The new optimizer. The gate is detached from the old one.

        Raises:
            InvalidArgumentError: If ``optimizer`` is none, or has none of the parameters.
            UnsupportedOptimizerError: If its gradients cannot be gated.
        """
        refuse_unsuitable(optimizer)
        self._refuse_nothing(optimizer)
        self.detach()
        self.optimizer = optimizer

    def regroup(self, units: UnitMap | Sequence[UnitGroup]) -> None:
        """Go on with the units of a model that has changed; the noise continues.

        Args:
            units: The units as they are now. A group whose name and size are as before keeps its utilities and its
                clock; any other starts anew.

        Raises:
            InvalidArgumentError: If the gate has one utility per weight, or ``units`` are none.
            StateMismatchError: If they are of a model that has changed.
            UnsupportedModelError: If there are none, or units are read by frozen weights only.
        """
        if not isinstance(self.gates, UnitGates):
            raise InvalidArgumentError(
                "units for a gate with one utility per weight",
                "a UtilityGate that was built with `units`",
                "Leave `regroup` out: weights keep their utilities as long as the optimizer has them",
            )
        self.gates.regroup(units)

    def choose(self, parameters: Iterable[Tensor] | None) -> None:
        """Gate other parameters from now on; those that were gated before keep their utilities and clocks.

        Args:
            parameters: The parameters; None gates all of the optimizer.

        Raises:
            InvalidArgumentError: If the gate has one utility per unit, or ``parameters`` are none of the optimizer's.
        """
        if not isinstance(self.gates, WeightGates):
            raise InvalidArgumentError(
                "parameters for a gate with one utility per unit",
                "a UtilityGate that was built without `units`",
                "Use `regroup(units)`: what writes the units is gated",
            )
        self.gates.choose(checked_parameters(parameters))
        self._refuse_nothing(self.optimizer)

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @torch.no_grad()
    def apply(self) -> None:
        """Gate the gradients that the parameters have now, in place; once per optimizer step, before it.

        A parameter (or unit) without a gradient is skipped: its utility and its clock stay.
        """
        self.gates.apply(self.optimizer, self.noise)

    def gated(self) -> set[Tensor]:
        """Return the parameters of the optimizer that are gated; of units those that write them."""
        return self.gates.gated(self.optimizer)

    @torch.no_grad()
    def scaled_utilities(self) -> dict[Tensor | str, Tensor]:
        """Return the scaled utility ``S`` of every gated weight, by parameter, or of every unit, by group name.

        Returns:
            Tensors with entries in ``(0, 1)``; empty before the first step.
        """
        return self.gates.scaled(self.optimizer)

    def refuse_overlap(self, others: Iterable[UtilityGate]) -> None:
        """Refuse to gate what other gates gate: its gradients would be held back and perturbed twice.

        Args:
            others: Gates in front of the same step.

        Raises:
            UnsupportedOptimizerError: If one of them has a parameter in common with this gate.
        """
        own = self.gated()
        for other in others:
            if other is not self and (common := own & other.gates.gated(self.optimizer)):
                raise UnsupportedOptimizerError(
                    f"two gates in front of {type(self.optimizer).__name__}, which share {len(common)} parameters",
                    "one gate per parameter",
                    "Drop or detach one of them, or choose other parameters for each (`parameters`, `units`; `include` "
                    "and `exclude` of UPGDPerturbation)",
                )

    def _refuse_nothing(self, optimizer: Optimizer) -> None:
        if not self.gates.gated(optimizer):
            raise InvalidArgumentError(
                f"a UtilityGate that gates no parameter of {type(optimizer).__name__}",
                "parameters (or units written by parameters) of this optimizer, in groups that are not 'gated': False",
                "Pass `parameters` or `units` of the model that the optimizer trains, or neither to gate all",
            )

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise UnsupportedOptimizerError(
                f"{type(optimizer).__name__} unscales the gradients itself (fused, with a GradScaler)",
                "gradients in their own scale before the step",
                "Call scaler.unscale_(optimizer) before scaler.step(optimizer), or pass fused=False",
            )
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return None  # the step will be skipped on the device: nothing happened
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.apply()
            return None
        gated = self._after(closure)
        return ((args[0], gated, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": gated})

    def _after(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate_and_gate() -> Any:
            loss = closure()
            self.apply()
            return loss

        return evaluate_and_gate

    def state_dict(self) -> dict[str, Any]:
        """Return utilities, clocks and the state of the noise: plain tensors and numbers, in the optimizer's order."""
        return {"noise": self.noise.state_dict(), self.gates.kind: self.gates.state_dict(self.optimizer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Args:
            state_dict: What :meth:`state_dict` returned, for an optimizer with the same parameters in the same order.

        Raises:
            StateMismatchError: If it belongs to other parameters or units; nothing is changed then.

        Example:
            >>> optimizer = torch.optim.SGD(torch.nn.Linear(3, 1).parameters(), lr=0.1)
            >>> saved = UtilityGate(optimizer, seed=0).state_dict()  # torch.save and torch.load keep it as it is
            >>> UtilityGate(optimizer).load_state_dict(saved)
        """
        check_entries(
            state_dict,
            "noise",
            self.gates.kind,
            remedy="Resume with the settings that wrote the state (one utility per weight, or per unit), or drop it",
        )
        self.gates.load_state_dict(self.optimizer, state_dict[self.gates.kind])
        self.noise.load_state_dict(state_dict["noise"])


def attached_gates(optimizer: Optimizer) -> list[UtilityGate]:
    """Return the gates that are attached to an optimizer."""
    owners = [getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values()]
    return [owner for owner in owners if isinstance(owner, UtilityGate)]
