"""Units by how often they are active or saturated, and units that do the same, as metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import check_number
from lightning_plasticity.functional.dormancy import at_bounds, duplicates, share_of_units
from lightning_plasticity.functional.spectrum import Positions, as_samples
from lightning_plasticity.metrics.dormancy import UnitMetric
from lightning_plasticity.metrics.factor import FactorMetric


class FrequencyMetric(UnitMetric):
    """Base of the metrics that count on how many samples a unit does something; it counts activity, ``h > 0``.

    Args:
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.
        state: Name of the count per unit.
        kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    def __init__(self, positions: Positions, state: str = "active", **kwargs: Any) -> None:
        super().__init__(positions, state, **kwargs)

    @override
    def update(self, activations: Tensor) -> None:
        """Take in a batch of activations.

        Args:
            activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        """
        rows = as_samples(activations, self.positions)
        self._add(rows, rows > 0)

    @override
    def scores(self) -> Tensor:
        """Return the share of the samples per unit, ``[U]``."""
        return self.totals / self.samples.clamp(min=1)


class DormantByFrequency(FrequencyMetric):
    """Share of units that are active, that is above zero, on less than a share ``frequency`` of the samples.

    1 for a layer that is all zero, NaN if an activation is. :meth:`mask` tells which units.

    Args:
        frequency: Share of samples from which on a unit counts as active, in ``(0, 1]``.
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``frequency`` is out of range.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (incremental CIFAR-100). Their
        code counts activations that are not zero, which for ReLU is the same.

    Example:
        >>> metric = DormantByFrequency(frequency=0.6)
        >>> metric.update(torch.tensor([[0.0, 1.0], [3.0, 1.0]]))
        >>> metric.compute(), metric.scores()
        (tensor(0.5000, dtype=torch.float64), tensor([0.5000, 1.0000], dtype=torch.float64))
    """

    def __init__(self, frequency: float = 0.01, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(positions, **kwargs)
        check_number("frequency", frequency, "(0, 1]")
        self.frequency = frequency

    @override
    def mask(self) -> Tensor:
        return self.scores() < self.frequency


class ActiveFraction(FrequencyMetric):
    """Mean share of the samples on which a unit is active, that is above zero; 0 for a layer that is all zero.

    Args:
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Ma et al., "Revisiting plasticity in visual reinforcement learning", ICLR 2024 (fraction of active units).

    Example:
        >>> metric = ActiveFraction()
        >>> metric.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(positions, **kwargs)

    @override
    def mask(self) -> Tensor:
        """Return which units were active at all, ``[U]``, bool."""
        return self.totals > 0

    @override
    def compute(self) -> Tensor:
        """Return the mean share, a float64 scalar in ``[0, 1]``; NaN if an activation was not finite."""
        return self.scores().mean()


class SaturatedUnitRatio(FrequencyMetric):
    """Share of units that are stuck at a bound of their activation function.

    Args:
        bounds: Smallest and largest value of the activation function: ``(-1, 1)`` for tanh, ``(0, 1)`` for sigmoid.
        tolerance: Distance from a bound that counts as being there, as a share of half the range, in ``(0, 1]``.
        frequency: Share of the samples at a bound from which on a unit is stuck, in ``(0, 1]``.
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If a share is out of range or the bounds are not in order.

    Example:
        >>> metric = SaturatedUnitRatio()
        >>> metric.update(torch.tensor([[0.999, 0.2], [-0.995, 1.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def __init__(
        self,
        bounds: tuple[float, float] = (-1.0, 1.0),
        *,
        tolerance: float = 0.01,
        frequency: float = 0.99,
        positions: Positions = "samples",
        **kwargs: Any,
    ) -> None:
        check_number("tolerance", tolerance, "[0, inf)")
        numbers = "_".join(f"{number:g}".replace(".", "p") for number in (*bounds, tolerance))
        super().__init__(positions, f"saturated_{numbers}", **kwargs)
        check_number("frequency", frequency, "(0, 1]")
        at_bounds(torch.zeros(0), bounds, tolerance)  # refuses wrong arguments before the first batch
        self.bounds, self.tolerance, self.frequency = bounds, tolerance, frequency

    @override
    def update(self, activations: Tensor) -> None:
        """Take in a batch of activations.

        Args:
            activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        """
        rows = as_samples(activations, self.positions)
        self._add(rows, at_bounds(rows, self.bounds, self.tolerance))

    @override
    def mask(self) -> Tensor:
        return self.scores() >= self.frequency


class DuplicateUnitRatio(FactorMetric):
    """Share of units that do what another unit does: their correlation exceeds ``threshold`` in magnitude.

    Units that do not vary, such as dead ones, correlate with none. The state is that of the metrics of rank.

    Args:
        threshold: Largest magnitude of a correlation between units that differ, in ``(0, 1]``.
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        max_features: Largest number of units for which the state is exact, see
            :class:`~lightning_plasticity.metrics.factor.FactorMetric`.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``threshold`` is out of range.

    References:
        Joudaki et al., "Barriers for learning in an evolving world", ICLR 2026.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> metric = DuplicateUnitRatio()
        >>> metric.update(torch.stack([x, 5 - 2 * x, x % 2, 0 * x], dim=1))
        >>> metric.compute(), metric.mask()
        (tensor(0.5000, dtype=torch.float64), tensor([ True,  True, False, False]))
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        threshold: float = 0.95,
        *,
        positions: Positions = "samples",
        max_features: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(positions=positions, max_features=max_features, **kwargs)
        check_number("threshold", threshold, "(0, 1]")
        self.threshold = threshold

    def mask(self) -> Tensor:
        """Return which units have a duplicate.

        Returns:
            ``[U]``, bool.
        """
        return duplicates(self.factor(centered=True), self.factor(), self.threshold)

    @override
    def compute(self) -> Tensor:
        """Return the share of units that have a duplicate.

        Returns:
            A float64 scalar in ``[0, 1]``; NaN if an activation was not finite.
        """
        return share_of_units(self.mask(), self.factor())
