"""The state that all metrics of rank and correlation share: a factor of the features seen so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_flags, check_number
from lightning_plasticity.functional.spectrum import (
    Positions,
    as_samples,
    compress,
    rounding_unit,
    shrink,
    singular_values,
    without_noise,
)
from lightning_plasticity.metrics.base import PlasticityMetric


class FactorMetric(PlasticityMetric):
    """Base of the metrics that are functions of the second moments of features.

    The state is a matrix ``F`` in float64 with ``FᵀF = XᵀX``, where ``X`` are all samples beside a column of ones, see
    :mod:`lightning_plasticity.functional.spectrum`. It serves centred and other metrics alike, so that in one
    ``MetricCollection`` it is updated once. It holds the samples themselves until there are six times as many as
    features, and then as many rows as features, whatever the number of samples. A Gram matrix of the same size would
    lose all singular values below about 1e-8 of the largest.

    Beyond ``max_features`` it is a Frequent Directions sketch of ``max_features`` rows, exact until there are twice as
    many samples. What the sketch has dropped is spread evenly over all directions, which keeps ``‖X‖_F`` exact; every
    squared singular value is then within :meth:`error_bound` of the truth. Ranks that weigh small singular values come
    out too large: the effective rank 1.7 times, for 1024 features of ``σ_k ∝ 1/k`` with ``max_features=128``.

    Args:
        positions: Whether the positions of a map ``[N, D, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        max_features: Largest number of features for which the state is exact.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``max_features`` is less than 1.
    """

    samples: Tensor
    rounding: Tensor
    lost: Tensor
    shrinkage: Tensor

    def __init__(self, *, positions: Positions = "samples", max_features: int = 2048, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("max_features", max_features, "[1, inf)", whole=True, remedy="Use the default of 2048")
        self.positions, self.max_features = positions, max_features
        # Torchmetrics lets metrics share a state if its names agree: what changes the update must be in the name.
        self._factor_name = f"factor_of_{positions}_{max_features}"
        self.add_state(self._factor_name, [], dist_reduce_fx="cat")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("rounding", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("lost", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("shrinkage", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, features: Tensor) -> None:
        """Take in a batch of features.

        Args:
            features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.

        Raises:
            InvalidArgumentError: If the number of features is not that of earlier batches.
        """
        rows = as_samples(features, self.positions)
        size = rows.shape[1]
        if self._blocks and self.num_features != size:
            raise InvalidArgumentError(
                f"a batch of {size} features after batches of {self.num_features}",
                "the same number of features in every batch",
                "Use one metric per layer, and reset it when the layer changes",
            )
        block = rows.new_ones(len(rows), size + 1, dtype=torch.float64)
        block[:, 1:] = rows
        self._blocks.append(block)
        self.samples = self.samples + rows.shape[0]
        self.rounding = self.rounding.clamp(min=rounding_unit(features.dtype))
        if sum(len(block) for block in self._blocks) > self._capacity:
            self._condense()

    @property
    def num_features(self) -> int:
        """The number of features; 0 before the first batch."""
        return self._blocks[0].shape[1] - 1 if self._blocks else 0

    @property
    def _blocks(self) -> list[Tensor]:
        blocks: list[Tensor] = getattr(self, self._factor_name)
        return blocks

    @property
    def _capacity(self) -> int:
        """The number of rows beyond which the state is condensed."""
        exact = self.num_features <= self.max_features
        return 6 * (self.num_features + 1) if exact else 2 * self.max_features

    @override
    def _condense(self) -> None:
        if not self._blocks:
            return
        factor = self.one(self._blocks)
        if self.num_features <= self.max_features:
            factor = compress(factor)
        elif len(factor) > self._capacity:
            factor, delta, lost = shrink(factor, self.max_features)
            self.shrinkage, self.lost = self.shrinkage + delta, self.lost + lost
        setattr(self, self._factor_name, [factor])

    def factor(self, *, centered: bool = False) -> Tensor:
        """Return a factor of the features.

        Args:
            centered: Whether the mean of every feature is subtracted.

        Returns:
            ``[R, D]``, float64.
        """
        both = self.one(self._blocks)
        ones, rows = both[:, :1], both[:, 1:]
        if centered:  # what is left of the features beside the direction of the ones is what differs from the mean
            ones = torch.nn.functional.normalize(ones, dim=0)
            rows = rows - ones @ (ones.mT @ rows)
        return rows

    def error_bound(self) -> Tensor:
        """Return how far a squared singular value can be from the truth: 0 up to ``max_features`` features.

        Returns:
            The bound, in the squared unit of the features; it holds for metrics that do not centre.
        """
        return self.shrinkage


class SpectralMetric(FactorMetric):
    """Base of the metrics that are functions of the singular values of features.

    Args:
        centered: Subtract the mean of every feature.
        noise_floor: Singular values up to this share of the largest count as zero. Default: for half precision what
            rounding alone can produce, otherwise nothing.
        positions: Whether the positions of a map ``[N, D, *positions]`` are ``"samples"`` or are replaced by their
            ``"mean"``.
        max_features: Largest number of features for which the state is exact, see :class:`FactorMetric`.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``noise_floor`` is out of range.
    """

    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(
        self,
        *,
        centered: bool = False,
        noise_floor: float | None = None,
        positions: Positions = "samples",
        max_features: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(positions=positions, max_features=max_features, **kwargs)
        check_flags(centered=centered)
        if noise_floor is not None:
            check_number("noise_floor", noise_floor, "[0, 1)", meaning="a share of the largest singular value")
        self.centered, self.noise_floor = centered, noise_floor

    def singular_values(self) -> Tensor:
        """Return the singular values of all features seen so far.

        Returns:
            ``[min(N, D)]`` in descending order, float64; those that may be noise are zero. One NaN without samples.
        """
        rows = self.factor(centered=self.centered)
        sigma = singular_values(rows)
        if self.num_features > self.max_features:
            sigma = self._restored(sigma)
        return without_noise(sigma, self.samples, self.num_features, self.rounding, self.noise_floor)

    def _restored(self, sigma: Tensor) -> Tensor:
        """Return the singular values of a sketch with what it has lost spread over all directions."""
        count = min(int(self.samples), self.num_features)
        lost_ones = self.samples - self.one(self._blocks)[:, 0].square().sum()
        each = (self.lost - lost_ones).clamp(min=0) / max(count, 1)
        padded = torch.nn.functional.pad(sigma[:count], (0, count - min(len(sigma), count)))
        return (padded.square() + each).sqrt()

    def measure(self, sigma: Tensor) -> Tensor:
        """Return the metric of singular values.

        Args:
            sigma: What :meth:`singular_values` returns.

        Returns:
            A float64 scalar.
        """
        raise NotImplementedError

    @override
    def compute(self) -> Tensor:
        """Return the metric of all features seen so far: 0 if they are all zero, NaN if one is not finite or none came.

        Returns:
            A float64 scalar.
        """
        return self.measure(self.singular_values())
