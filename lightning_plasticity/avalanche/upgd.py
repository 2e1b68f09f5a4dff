"""UPGD in an Avalanche strategy, in front of whatever optimizer it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.avalanche.finding import find_units
from lightning_plasticity.errors import check_choice, check_seed
from lightning_plasticity.optim import HesScale, UtilityGate
from lightning_plasticity.optim.gate import attached_gates
from lightning_plasticity.optim.gate_arguments import check_per
from lightning_plasticity.optim.growth import choose_anew
from lightning_plasticity.optim.parameters import choose_parameters, warn_untrained
from lightning_plasticity.optim.settings import Perturbation
from lightning_plasticity.units import UnitMap
from lightning_plasticity.units.patterns import Patterns, include_exclude


class UPGDPlugin(SupervisedPlugin[Any], supports_distributed=False):
    r"""Holds back and perturbs gradients by the utility of what they would change, before every update.

    In front of plain SGD this is :class:`~lightning_plasticity.optim.UPGD`. When a head grows, its new parameters start
    without utility, the others keep theirs. Units are found anew in every experience, since the model may have changed;
    a group whose name and size are as before keeps its utilities.

    Args:
        noise_std: Standard deviation of the noise, on the scale of the gradient.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        per: Whether every ``"weight"`` or every ``"unit"`` has a utility.
        scaling: What a utility is divided by; see :class:`~lightning_plasticity.optim.UtilityGate`.
        correction: ``"paper"`` or ``"reference"``, see :class:`~lightning_plasticity.optim.UPGD`.
        protecting: Whether the gradient is held back as well, or only the noise.
        gate_scale: Factor of the gate: 1 leaves half of the gradient of a weight without utility, 2 all of it.
        curvature: None for first-order utilities, ``"hesscale"`` for second-order ones, from
            :class:`~lightning_plasticity.optim.HesScale`. It follows the loss as it is when the plugin is asked, so
            plugins that add to the loss come before this one.
        include: Patterns (``*``, ``?``) of parameters to gate, or of groups with ``per="unit"``; None gates all.
        exclude: Patterns to leave alone; they win.
        example_input: With ``per="unit"``, arguments of the model's ``forward`` for finding the units; default: the
            first mini-batch.
        seed: Seed of the noise; None takes torch's global seed.

    Raises:
        InvalidArgumentError: If a value is outside its range, or arguments contradict each other.

    Attributes:
        gate: The engine; None before the first mini-batch.

    References:
        Elsayed and Mahmood, `Addressing loss of plasticity and catastrophic forgetting in continual learning`
        (ICLR 2024), Algorithm 1.

    Example:
        >>> plugin = UPGDPlugin(noise_std=0.01, decay_rate=0.99)
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
        curvature: Literal["hesscale"] | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        example_input: Any | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_per(per, example_input)
        check_choice("curvature", curvature, ("hesscale", None))
        check_seed(seed)
        self.per, self.curvature, self.seed = per, curvature, seed
        self.include, self.exclude = include_exclude(include, exclude)
        self.example_input = example_input
        self.settings = Perturbation(noise_std, decay_rate, scaling, correction, protecting, gate_scale)
        self.gate: UtilityGate | None = None
        self._source: HesScale | None = None
        self._has_chosen = False

    @override
    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Build the gate with the first mini-batch, and look for units with the first one of every experience.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        if self.gate is None:
            self._source = None if self.curvature is None else HesScale(strategy.model)
            self.gate = self._make_gate(strategy)
        elif not self._has_chosen or self.gate.optimizer is not strategy.optimizer:
            self._go_on(self.gate, strategy)
        self._has_chosen = True

    @override
    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Follow the backward pass that comes, if utilities are of second order.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        if self._source is not None:
            self._source.watch(strategy.loss)

    @override
    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Gate the gradients that the strategy has just computed.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        assert self.gate is not None  # noqa: S101 - built at the beginning of the iteration
        self.gate.apply()

    @override
    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Choose anew with the next experience: the model may change before.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        self._has_chosen = False

    def _make_gate(self, strategy: Any) -> UtilityGate:
        units = self._units(strategy) if self.per == "unit" else None
        parameters = self._parameters(strategy) if self.per == "weight" else None
        gate = UtilityGate(
            strategy.optimizer,
            **asdict(self.settings),
            units=units,
            parameters=parameters,
            curvature=self._source,
            seed=self.seed,
        )
        rivals = [each.gate for each in strategy.plugins if isinstance(each, UPGDPlugin) and each.gate is not None]
        gate.refuse_overlap([*rivals, *attached_gates(strategy.optimizer)])
        names = {parameter: name for name, parameter in strategy.model.named_parameters()}
        gated = gate.gated()
        warn_untrained(type(self).__name__, {p: name for p, name in names.items() if p in gated})
        return gate

    def _go_on(self, gate: UtilityGate, strategy: Any) -> None:
        """Choose among what the model and its optimizer have become."""
        if self.per == "unit":
            choose_anew(gate, strategy.optimizer, self._units(strategy), None)
        else:
            choose_anew(gate, strategy.optimizer, None, self._parameters(strategy))

    def _units(self, strategy: Any) -> UnitMap:
        return find_units(strategy, self.example_input, self.include, self.exclude)

    def _parameters(self, strategy: Any) -> Iterable[Tensor] | None:
        """Return the chosen parameters; None for all of the optimizer, also those that the model will get."""
        is_all = self.include is None and not self.exclude
        return None if is_all else choose_parameters(strategy.model, self.include, self.exclude)
