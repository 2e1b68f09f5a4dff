"""Units that have stopped working, as metrics: they add up sums per unit over batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.dormancy import _ratio, _unit_scores
from lightning_plasticity.functional.spectrum import Positions, as_samples
from lightning_plasticity.metrics.base import PlasticityMetric


class DormantUnitRatio(PlasticityMetric):
    """Share of dormant units: those whose mean magnitude is at most ``threshold`` times the mean of their layer.

    1 for a layer that is all zero, NaN if an activation is NaN. :meth:`mask` tells which units, :meth:`scores` how far.

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

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, threshold: float = 0.025, *, positions: Positions = "samples", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not threshold >= 0:
            raise InvalidArgumentError(
                f"threshold={threshold}", "a score in [0, ∞)", "Use 0.025 or 0.1 as the paper does"
            )
        self.threshold, self.positions = threshold, positions
        self._sum_name = f"magnitude_{positions}"
        self.add_state(self._sum_name, torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, activations: Tensor) -> None:
        """Take in a batch of activations.

        Args:
            activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        """
        batch = as_samples(activations, self.positions).abs().sum(0, dtype=torch.float64)
        setattr(self, self._sum_name, self._join(self._sum_name, [getattr(self, self._sum_name), batch]))

    @override
    def compute(self) -> Tensor:
        """Return the share of dormant units, a float64 scalar."""
        scores = self.scores()
        return _ratio(scores <= self.threshold, scores)

    def scores(self) -> Tensor:
        """Return the mean magnitude of every unit relative to the mean of the layer, ``[U]``."""
        return _unit_scores(getattr(self, self._sum_name))

    def mask(self) -> Tensor:
        """Return which units are dormant, ``[U]``, bool."""
        return self.scores() <= self.threshold
