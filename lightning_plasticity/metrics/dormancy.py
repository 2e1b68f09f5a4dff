"""Units that have stopped working, as metrics: they add up sums per unit over batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.functional.dormancy import relative_scores, share_of_units
from lightning_plasticity.functional.spectrum import Positions, as_samples
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


class UnitMetric(PlasticityMetric):
    """Base of the metrics that are the share of units for which something holds.

    Args:
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        state: Name of the sum per unit; metrics that add up the same numbers share it by giving it the same name.
        kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    samples: Tensor

    def __init__(self, positions: Positions, state: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.positions = positions
        self._sum_name = f"{state}_of_{positions}"
        self.add_state(self._sum_name, torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, rows: Tensor, values: Tensor) -> None:
        """Add up per-sample values ``[N, U]`` of a batch of rows; what is not finite in the rows stays visible."""
        if not len(rows):
            return  # so that without samples there are no units either, and no share of them
        batch = values.sum(0, dtype=torch.float64)
        if values is not rows:
            batch = batch + 0 * rows.sum(0, dtype=torch.float64)
        before = self.totals
        if before.numel() and before.shape != batch.shape:
            raise InvalidArgumentError(
                f"a batch of {len(batch)} units after batches of {len(before)}",
                "the same number of units in every batch",
                "Use one metric per layer, and reset it when the layer changes",
            )
        setattr(self, self._sum_name, self.join(self._sum_name, [before, batch]))
        self.samples = self.samples + rows.shape[0]

    @property
    def totals(self) -> Tensor:
        """The sum over samples per unit, ``[U]``; empty before the first batch."""
        totals: Tensor = getattr(self, self._sum_name)
        return totals

    def scores(self) -> Tensor:
        """Return the number per unit on which the decision rests.

        Returns:
            ``[U]``, float64; NaN where an activation was not finite.
        """
        raise NotImplementedError

    def mask(self) -> Tensor:
        """Return which units the metric counts.

        Returns:
            ``[U]``, bool.
        """
        raise NotImplementedError

    @override
    def compute(self) -> Tensor:
        """Return the share of units that the metric counts.

        Returns:
            A float64 scalar in ``[0, 1]``; NaN if an activation was not finite or if there was none.
        """
        return share_of_units(self.mask(), self.totals)


class MagnitudeMetric(UnitMetric):
    """Base of the metrics that add up the magnitude of every unit.

    Args:
        threshold: Largest score that counts; a unit's score is its magnitude relative to the mean of the layer.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.
        state: Name of the sum per unit.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``threshold`` is negative.
    """

    def __init__(self, threshold: float, positions: Positions, state: str = "magnitude", **kwargs: Any) -> None:
        super().__init__(positions, state, **kwargs)
        check_number("threshold", threshold, "[0, inf)", remedy="Use 0.025 or 0.1 as the paper")
        self.threshold = threshold

    @override
    def scores(self) -> Tensor:
        return relative_scores(self.totals)

    @override
    def mask(self) -> Tensor:
        return self.scores() <= self.threshold


class DormantUnitRatio(MagnitudeMetric):
    """Share of dormant units: those whose mean magnitude is at most ``threshold`` times the mean of their layer.

    1 for a layer that is all zero, NaN if an activation is. :meth:`mask` tells which units, :meth:`scores` how far.

    Args:
        threshold: Largest score of a dormant unit. The paper measures with 0.025 and replaces at 0.1.
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023, definition 3.1.

    Example:
        >>> metric = DormantUnitRatio()
        >>> metric.update(torch.tensor([[0.0, 0.1, 8.0, 8.0]]))
        >>> metric.compute(), metric.mask()
        (tensor(0.5000, dtype=torch.float64), tensor([ True,  True, False, False]))
    """

    def __init__(self, threshold: float = 0.025, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(threshold, positions, **kwargs)

    @override
    def update(self, activations: Tensor) -> None:
        """Take in a batch of activations.

        Args:
            activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        """
        rows = as_samples(activations, self.positions).abs()
        self._add(rows, rows)


class DeadUnitRatio(MagnitudeMetric):
    """Share of dead units: those that were zero on every sample.

    1 for a layer that is all zero, NaN if an activation is. :meth:`mask` tells which units.

    Args:
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (online permuted MNIST).

    Example:
        >>> metric = DeadUnitRatio()
        >>> metric.update(torch.tensor([[0.0, -1e-9, 8.0, 8.0]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def __init__(self, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(0.0, positions, **kwargs)

    @override
    def update(self, activations: Tensor) -> None:
        """Take in a batch of activations.

        Args:
            activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        """
        rows = as_samples(activations, self.positions).abs()
        self._add(rows, rows)


class GradientDormantRatio(MagnitudeMetric):
    """Share of units whose mean gradient magnitude is at most ``threshold`` times the mean of their layer.

    It is updated with ``∂loss/∂activation``. 1 for a layer without gradient, NaN if a gradient is NaN.

    Args:
        threshold: Largest score of a dormant unit.
        positions: Whether the positions of a map ``[N, U, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Liu et al., "Measure gradients, not activations! Enhancing neuronal activity in deep reinforcement learning",
        arXiv 2505.24061, 2025.

    Example:
        >>> metric = GradientDormantRatio()
        >>> metric.update(torch.tensor([[0.0, 2.0], [0.0, -1.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    reads = Reads.FEATURE_GRADIENTS

    def __init__(self, threshold: float = 0.025, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(threshold, positions, "gradient_magnitude", **kwargs)

    @override
    def update(self, gradients: Tensor) -> None:
        """Take in the gradients of a batch.

        Args:
            gradients: Of the loss by the activations, ``[N, U]``, or of maps, ``[N, U, *positions]``.
        """
        rows = as_samples(gradients, self.positions).abs()
        self._add(rows, rows)
