"""UPGD in an Avalanche strategy, in front of whatever optimizer it has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin
from typing_extensions import override

from lightning_plasticity.errors import check_choice, check_seed
from lightning_plasticity.optim import UtilityGate
from lightning_plasticity.optim.settings import Perturbation
from lightning_plasticity.units import discover_units


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
        gate_scale: Factor of the gate, 1 or 2.
        seed: Seed of the noise; None takes torch's global seed.

    Raises:
        InvalidArgumentError: If a value is outside its range.

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
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("per", per, ("weight", "unit"))
        check_seed(seed)
        self.per, self.seed = per, seed
        self.settings = asdict(Perturbation(noise_std, decay_rate, scaling, correction, protecting, gate_scale))
        self.gate: UtilityGate | None = None
        self._units_are_known = False

    @override
    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Build the gate with the first mini-batch, and look for units with the first one of every experience.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        units = None
        if self.per == "unit" and not self._units_are_known:
            units = discover_units(strategy.model, strategy.forward)
            self._units_are_known = True
        if self.gate is None:
            self.gate = UtilityGate(strategy.optimizer, units=units, seed=self.seed, **self.settings)
            return
        if self.gate.optimizer is not strategy.optimizer:
            self.gate.rebind(strategy.optimizer)
        if units is not None:
            self.gate.regroup(units)

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
        """Let go of units: the model may change before the next experience.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        self._units_are_known = False
