"""UPGD in front of any optimizer of a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_plasticity.callbacks.example import find_units, has_example
from lightning_plasticity.callbacks.guards import check_optimizers
from lightning_plasticity.callbacks.lifetime import EngineCallback
from lightning_plasticity.callbacks.scaling import scaler_of, will_be_skipped
from lightning_plasticity.callbacks.steps import LogClock, log_everywhere
from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError, check_choice, check_seed
from lightning_plasticity.optim import HesScale, SampledGaussNewton, UtilityGate
from lightning_plasticity.optim.gate import attached_gates
from lightning_plasticity.optim.gate_arguments import check_per
from lightning_plasticity.optim.ggn import only_loss
from lightning_plasticity.optim.growth import choose_anew
from lightning_plasticity.optim.parameters import choose_parameters, warn_untrained
from lightning_plasticity.optim.settings import Perturbation
from lightning_plasticity.units import UnitGroup
from lightning_plasticity.units.patterns import Patterns


class UPGDPerturbation(EngineCallback):
    """Hold back and perturb gradients by the utility of what they would change (UPGD), before any optimizer.

    Acts on the gradients of every optimizer step, once they are complete: accumulated, averaged over processes,
    unscaled. The optimizer stays the user's. In front of ``torch.optim.SGD`` this is
    :class:`~lightning_plasticity.optim.UPGD` (with the optimizer's own ``weight_decay`` as decay); in front of Adam,
    Adam normalises the noise too, and :class:`~lightning_plasticity.optim.AdaUPGD` is the published alternative.

    If the module exchanges its optimizers while it is fitted, or adds parameters to one, as when a head grows, gates
    choose anew before the next batch. What is still there keeps its utilities, except with ``curvature``.

    Logs at the Trainer's ``log_every_n_steps``, for every gated parameter (or group of units):
    ``upgd/neutral/<name>``, the share of entries whose scaled utility lies within 0.02 of 1/2, which the gate treats
    alike; with ``scaling="global"`` that is nearly everything but the output layer, in the steady state. Other
    callbacks can monitor it, since it is among the Trainer's ``callback_metrics``.

    A checkpoint keeps its state under ``per``, ``include`` and ``exclude``: two of these callbacks in one Trainer must
    differ there, and one that was changed there starts afresh, of which Lightning warns.

    Args:
        noise_std: Standard deviation of the noise, on the scale of the gradient: under plain gradient descent weights
            move by the learning rate times this.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        per: One utility per ``"weight"``, or per hidden ``"unit"``; then all that writes the unit is gated together,
            and the output layer passes unchanged.
        scaling: What a utility is divided by before the sigmoid: the largest of all (``"global"``), the norm over the
            incoming weights of the unit, or over the units of the group (``"local"``), or the largest absolute value
            of all (``"abs"``). ``"none"`` leaves utilities out: noise only. *All* are those of one optimizer: each of
            several has a gate and a largest utility of its own.
        correction: ``"paper"`` corrects utility and divisor for the start of the running average; ``"reference"`` only
            the utility, as the published code does.
        protecting: Whether the gradient is held back as well, or only the noise.
        gate_scale: Factor of the gate: 1 leaves half of the gradient of a weight without utility, 2 all of it.
        curvature: None for first-order utilities, ``"hesscale"`` for second-order ones, from
            :class:`~lightning_plasticity.optim.HesScale`; ``"ggn_mc"`` takes them from BackPACK (extra ``curvature``)
            by :class:`~lightning_plasticity.optim.SampledGaussNewton`, for a module that owns its loss as a module.
        when: Before or after the Trainer's gradient clipping.
        include: Patterns (``*``, ``?``) of parameters to gate, or of groups with ``per="unit"``; None gates all.
        exclude: Patterns to leave alone; they win.
        example_input: With ``per="unit"``, arguments of ``forward`` for finding the units; by default the module's
            ``example_input_array`` or the first training batch.
        seed: Seed of the noise; None takes the global seed of the first process.

    Raises:
        InvalidArgumentError: If a value is outside its range.

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning` (ICLR
        2024).

    Example:
        >>> trainer = pl.Trainer(callbacks=[UPGDPerturbation(noise_std=0.01)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        noise_std: float = 1e-3,
        decay_rate: float = 0.999,
        *,
        per: Literal["weight", "unit"] = "weight",
        scaling: Literal["global", "local", "abs", "none"] = "global",
        correction: Literal["paper", "reference"] = "paper",
        protecting: bool = True,
        gate_scale: float = 1.0,
        curvature: Literal["hesscale", "ggn_mc"] | None = None,
        when: Literal["before_clipping", "after_clipping"] = "before_clipping",
        include: Patterns = None,
        exclude: Patterns = None,
        example_input: Any | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(include, exclude)
        self.settings = Perturbation(noise_std, decay_rate, scaling, correction, protecting, gate_scale)
        check_per(per, example_input)
        check_choice("when", when, ("before_clipping", "after_clipping"))
        check_choice("curvature", curvature, ("hesscale", "ggn_mc", None))
        check_seed(seed)
        self.per, self.when, self.curvature, self.seed = per, when, curvature, seed
        self.example_input = example_input
        self.gates: list[UtilityGate | None] = []
        self._source: HesScale | SampledGaussNewton | None = None
        self._restored: list[dict[str, Any]] = []
        self._restored_samples: dict[str, Any] = {}
        self._names: dict[Tensor, str] = {}
        self._owned: list[tuple[Optimizer, list[int]]] = []
        self._clock = LogClock()

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(per=self.per, include=self.include, exclude=self.exclude)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(self, trainer, pl_module)
        if self._names.keys() != set(pl_module.parameters()):
            self.gates = []  # else this is a further fit: new optimizers, but utilities live on
        if self.per == "weight" or has_example(pl_module, self.example_input):
            self._build(trainer, pl_module, None)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.gates or self._owned != _owned(trainer):
            self._build(trainer, pl_module, batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self._source is not None:
            scaler = scaler_of(trainer)
            self._source.watch(loss, scale=1.0 if scaler is None else scaler.get_scale())

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.when == "after_clipping":
            return  # the gates are attached to the optimizers
        for gate in self.gates:
            if gate is not None and gate.optimizer is optimizer and not will_be_skipped(trainer, optimizer):
                gate.apply()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._clock.strikes(trainer) and self.settings.scaling != "none":
            log_everywhere(trainer, pl_module, self.metrics())

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self.gates:
            return {"gates": self._restored} if self._restored else {}
        samples = {"samples": self._source.state_dict()} if isinstance(self._source, SampledGaussNewton) else {}
        return {"gates": [{} if gate is None else gate.state_dict() for gate in self.gates]} | samples

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored, self._restored_samples, self.gates = state_dict["gates"], state_dict.get("samples", {}), []

    def metrics(self) -> dict[str, float]:
        """Return the share of entries that the gate treats alike, by name of the parameter or group."""
        return {
            f"upgd/neutral/{key if isinstance(key, str) else self._names[key]}": _neutral_share(scaled)
            for gate in self.gates
            if gate is not None
            for key, scaled in gate.scaled_utilities().items()
        }

    def _build(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        """Build the gates, or let them go on with what the module and its optimizers are now."""
        self.detach()
        seed = trainer.strategy.broadcast(self.seed if self.seed is not None else torch.initial_seed())
        names: dict[Tensor, str] = {parameter: name for name, parameter in pl_module.named_parameters()}
        if not self.gates or (self.curvature is not None and names.keys() != self._names.keys()):
            self._source, self.gates = self._make_source(pl_module, seed), []
        self._names, self._owned = names, _owned(trainer)
        units: Sequence[UnitGroup] = ()
        parameters: Sequence[Tensor] = ()
        if self.per == "unit":
            units = tuple(
                find_units(trainer, pl_module, self.example_input, batch, include=self.include, exclude=self.exclude)
            )
        else:
            parameters = tuple(choose_parameters(pl_module, self.include, self.exclude))
        before = self.gates if len(self.gates) == len(trainer.optimizers) else [None] * len(trainer.optimizers)
        self.gates = [
            self._gate(optimizer, units, parameters, seed + i, gate)
            for i, (optimizer, gate) in enumerate(zip(trainer.optimizers, before, strict=True))
        ]
        if self._restored and len(self._restored) != len(self.gates):
            raise StateMismatchError(
                f"saved utilities for {len(self._restored)} optimizers",
                f"those of {len(self.gates)}, as many as the module has",
                "Resume with the module that wrote the checkpoint, or drop the callback's state",
            )
        for gate, state in zip(self.gates, self._restored, strict=False):
            if gate is not None and state:
                gate.load_state_dict(state)
        self._restored = []
        self._refuse_nothing(trainer)
        self._refuse_overlap(trainer)
        self._attach()

    def _refuse_nothing(self, trainer: pl.Trainer) -> None:
        """Refuse a fit in which nothing can ever be gated, and warn of one in which nothing is as yet."""
        gated = {p: self._names[p] for gate in self.gates if gate is not None for p in gate.gated()}
        if not gated:
            raise InvalidArgumentError(
                f"include={self.include!r} and exclude={self.exclude!r}, which choose nothing that an optimizer has",
                f"some of the parameters that {type(trainer.lightning_module).__name__}.configure_optimizers returns",
                "Correct the patterns, or give the parameters to an optimizer, frozen or not, before the fit starts",
            )
        warn_untrained(type(self).__name__, gated)

    def _refuse_overlap(self, trainer: pl.Trainer) -> None:
        """Refuse gates that share parameters with those of another callback, or with what the user has attached."""
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        rivals = [each for each in callbacks if isinstance(each, UPGDPerturbation) and each is not self]
        others = [gate for rival in rivals for gate in rival.gates if gate is not None]
        for gate in filter(None, self.gates):
            near = [other for other in others if other.optimizer is gate.optimizer]
            gate.refuse_overlap([*near, *attached_gates(gate.optimizer)])

    def _make_source(self, pl_module: pl.LightningModule, seed: int) -> HesScale | SampledGaussNewton | None:
        """Return the source of curvature."""
        if self.curvature != "ggn_mc":
            return None if self.curvature is None else HesScale(pl_module)
        source = SampledGaussNewton(pl_module, only_loss(pl_module), seed=seed)
        if self._restored_samples:
            source.load_state_dict(self._restored_samples)
            self._restored_samples = {}
        return source

    def _gate(
        self,
        optimizer: Optimizer,
        units: Sequence[UnitGroup],
        parameters: Sequence[Tensor],
        seed: int,
        before: UtilityGate | None,
    ) -> UtilityGate | None:
        """Return the gate of an optimizer, which goes on from the one before; None if it owns nothing to gate."""
        owned = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        units = [group for group in units if any(slot.tensor in owned for slot in group.incoming)]
        if not (units or any(parameter in owned for parameter in parameters)):
            return None
        if before is not None:
            choose_anew(before, optimizer, units, parameters)
            return before
        return UtilityGate(
            optimizer,
            **asdict(self.settings),
            units=units or None,
            parameters=parameters or None,
            curvature=self._source,
            seed=seed,
        )

    def _attach(self) -> None:
        if isinstance(self._source, SampledGaussNewton):
            self._source.attach()
        if self.when == "after_clipping":
            for gate in self.gates:
                if gate is not None:
                    gate.attach()

    @override
    def detach(self) -> None:
        if isinstance(self._source, SampledGaussNewton):
            self._source.detach()
        for gate in self.gates:
            if gate is not None:
                gate.detach()


def _owned(trainer: pl.Trainer) -> list[tuple[Optimizer, list[int]]]:
    """Return the optimizers with the sizes of their parameter groups, which change when a head grows."""
    return [(each, [len(group["params"]) for group in each.param_groups]) for each in trainer.optimizers]


def _neutral_share(scaled: Tensor) -> float:
    return float(((scaled - 0.5).abs() <= 0.02).double().mean())
