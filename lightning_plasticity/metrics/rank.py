"""Measures of rank as metrics: they add up over batches and processes what one decomposition at the end needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.rank import _effective_rank, _floored
from lightning_plasticity.functional.spectrum import Positions, as_samples, compress, rounding_unit, singular_values
from lightning_plasticity.metrics.base import PlasticityMetric


class SpectralMetric(PlasticityMetric):
    """Base of the metrics that are functions of the singular values of the features seen so far.

    The state is a factor of the features beside a column of ones, see :mod:`lightning_plasticity.functional.spectrum`:
    centred or not, all such metrics in one ``MetricCollection`` share it. It holds the samples themselves until there
    are four times as many as features, then as many rows as features, whatever the number of samples.

    Args:
        centered: Subtract the mean of every feature.
        noise_floor: Singular values up to this share of the largest count as zero. Default: for half precision what
            rounding alone can produce, otherwise nothing.
        positions: Whether the positions of a map ``[N, D, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    plot_lower_bound = 0.0

    samples: Tensor
    epsilon: Tensor

    def __init__(
        self,
        *,
        centered: bool = False,
        noise_floor: float | None = None,
        positions: Positions = "samples",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if noise_floor is not None and not 0 <= noise_floor < 1:
            raise InvalidArgumentError(f"noise_floor={noise_floor}", "a share in [0, 1), or None", "Correct it")
        self.centered, self.noise_floor, self.positions = centered, noise_floor, positions
        # Metrics that update differently must not share a state, which torchmetrics decides by its name.
        self._rows_name = f"rows_{positions}"
        self.add_state(self._rows_name, [], dist_reduce_fx="cat")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("epsilon", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    @override
    def update(self, features: Tensor) -> None:
        """Take in a batch of features.

        Args:
            features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.

        Raises:
            InvalidArgumentError: If the number of features is not that of earlier batches.
        """
        rows = as_samples(features, self.positions)
        rows = torch.cat([torch.ones_like(rows[:, :1], dtype=torch.float64), rows.double()], dim=1)
        factor = self._factor
        if factor and factor[0].shape[1] != rows.shape[1]:
            raise InvalidArgumentError(
                f"a batch of {rows.shape[1] - 1} features after batches of {factor[0].shape[1] - 1}",
                "the same number of features in every batch",
                "Use one metric per layer, or reset it when the layer changes",
            )
        factor.append(rows)
        self.samples = self.samples + rows.shape[0]
        self.epsilon = self.epsilon.clamp(min=rounding_unit(features.dtype))
        if sum(len(block) for block in factor) > 4 * rows.shape[1]:
            self._condense()

    @property
    def _factor(self) -> list[Tensor]:
        state: list[Tensor] = getattr(self, self._rows_name)
        return state

    @override
    def _condense(self) -> None:
        if self._factor:
            setattr(self, self._rows_name, [compress(self._one(self._factor))])

    def singular_values(self) -> Tensor:
        """Return the singular values of all features seen so far.

        Returns:
            Float64, in descending order, at most ``min(N, D)`` of them; those below the noise floor are zero.
        """
        factor = self._one(self._factor)
        ones, rows = factor[:, :1], factor[:, 1:]
        if self.centered:
            ones = torch.nn.functional.normalize(ones, dim=0)
            rows = rows - ones @ (ones.mT @ rows)
        return _floored(singular_values(rows), self.samples, rows.shape[1], self.epsilon, self.noise_floor)


class EffectiveRank(SpectralMetric):
    """Effective rank ``exp(-Σ p log p)`` with ``p = σ / Σσ`` of the features, in ``[1, min(N, D)]``.

    0 for features that are all zero, NaN if one is not finite.

    Args:
        centered: Subtract the mean of every feature.
        noise_floor: Singular values up to this share of the largest count as zero. Default: for half precision what
            rounding alone can produce, otherwise nothing.
        positions: Whether the positions of a map ``[N, D, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> metric = EffectiveRank()
        >>> metric.update(torch.eye(4)[:2])
        >>> metric.update(torch.eye(4)[2:])
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    @override
    def compute(self) -> Tensor:
        """Return the effective rank, a float64 scalar."""
        return _effective_rank(self.singular_values())
