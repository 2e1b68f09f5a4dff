"""Which units are replaced: from how many are due, and the scores.

Higher scores are kept. How many are due is decided on the host from ages alone, so that the scores are looked at (and
processes and devices waited for) only in the steps in which something is replaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_plasticity.errors import check_number
from lightning_plasticity.replacement.ages import Ages

_MANY = 512  # units of which sorting all costs more than looking for the lowest


@runtime_checkable
class Selection(Protocol):
    """A rule that chooses the units to replace."""

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Return the largest number of units that may be replaced now; 0 means that no score is looked at."""

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return the units to replace, at most ``due``, ``[R]``, int64 on the host.

        Args:
            score: Score of every unit, ``[U]``, on the host; a unit whose score is not a number is replaced first.
            due: What :meth:`due` returned.
            ages: Ages of the units.
            generator: Source of randomness; equal on all processes.
        """


def lowest(score: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return the ``count`` candidates of lowest score; ties go to the earlier candidate, broken units come first.

    Args:
        score: Score of every unit, ``[U]``.
        candidates: Units that may be chosen, in order of preference, ``[C]``.
        count: How many to choose.

    Returns:
        The chosen units, lowest first, ``[min(count, C)]``.

    Example:
        >>> lowest(torch.tensor([0.5, 0.1, float("nan"), 0.1]), torch.tensor([3, 2, 1, 0]), 3)
        tensor([2, 3, 1])
    """
    score = score.nan_to_num(-torch.inf, -torch.inf, -torch.inf).index_select(0, candidates)
    if 0 < count < len(candidates) > _MANY:  # few of many are due, as a rule: only they and their equals are sorted
        few = (score <= score.kthvalue(count).values).nonzero()[:, 0]
        score, candidates = score.index_select(0, few), candidates.index_select(0, few)
    return candidates[torch.sort(score, stable=True).indices[:count]]


@dataclass(frozen=True)
class LowestMature:
    """The ``replacement_rate`` lowest fraction of the mature units; fractions of a unit carry over.

    Nothing is due, and nothing accrues, while no unit is mature, so coming of age causes no burst.

    Args:
        replacement_rate: Fraction of the mature units replaced per decision (usually every optimizer step), in
            ``[0, 1]``.
        maturity_threshold: A unit is mature when its age exceeds this many optimizer steps.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024), Algorithm 1. There one unit at
        most is replaced per step; here, as in the authors' code, as many as are due.
    """

    replacement_rate: float = 1e-4
    maturity_threshold: int = 100

    def __post_init__(self) -> None:
        _check_rate(self.replacement_rate)
        _check_threshold(self.maturity_threshold)

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Add this decision's share of the mature units to what is due and return the whole units of it."""
        return _accrue(ages, self.replacement_rate, self.maturity_threshold)

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return the ``due`` mature units of lowest score; ties go to the older unit, then to the lower index."""
        return lowest(score, ages.mature_units(self.maturity_threshold), due)


@dataclass(frozen=True)
class BernoulliLowestMature:
    """The ``replacement_rate`` lowest fraction of the mature units; a fraction of a unit is decided by lot.

    With ``p`` units expected, ``floor(p)`` are replaced and one more with probability ``p - floor(p)``. The expectation
    is that of :class:`LowestMature`, the variance larger.

    Args:
        replacement_rate: Fraction of the mature units replaced per decision, on average, in ``[0, 1]``.
        maturity_threshold: A unit is mature when its age exceeds this many optimizer steps.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Dohare et al., `Loss of plasticity in deep continual learning` (Nature 2024): how the authors' code counts with
        ``accumulate=False``, as in their reinforcement learning. There the fraction is lost once a whole unit is due.
    """

    replacement_rate: float = 1e-4
    maturity_threshold: int = 100

    def __post_init__(self) -> None:
        _check_rate(self.replacement_rate)
        _check_threshold(self.maturity_threshold)

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Round the expected number of units up or down by lot."""
        expected = self.replacement_rate * ages.mature_count(self.maturity_threshold)
        if not expected:
            return 0
        return math.floor(expected + float(torch.rand((), dtype=torch.float64, generator=generator, device="cpu")))

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return the ``due`` mature units of lowest score; ties go to the older unit, then to the lower index."""
        return lowest(score, ages.mature_units(self.maturity_threshold), due)


@dataclass(frozen=True)
class AtMost:
    """Every mature unit whose score is at most ``threshold``, however many they are.

    With :class:`~lightning_plasticity.replacement.Dormancy` these are the dormant units; with
    :class:`~lightning_plasticity.replacement.InterFiringTime` those whose silence has reached the ``1 - threshold``
    quantile of their inter-firing times.

    Args:
        threshold: Largest score that is replaced. A negative one switches replacement off for scores of at least 0.
        maturity_threshold: A unit is mature when its age exceeds this many optimizer steps; 0 protects no unit.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Sokar et al., `The dormant neuron phenomenon in deep reinforcement learning` (ICML 2023), definition 3.1, where
        the threshold is inclusive too.
    """

    threshold: float
    maturity_threshold: int = 0

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, "[-inf, inf]", remedy="Pass the largest score to replace")
        _check_threshold(self.maturity_threshold)

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Return the number of mature units: any of them may turn out to be below the threshold."""
        return ages.mature_count(self.maturity_threshold)

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return the mature units with a score of at most the threshold, lowest first."""
        mature = ages.mature_units(self.maturity_threshold)
        low = (score <= self.threshold) | ~score.isfinite()
        return lowest(score, mature[low[mature]], due)


@dataclass(frozen=True)
class RandomMature:
    """As many mature units as :class:`LowestMature` takes, drawn at random: the control for every utility.

    Args:
        replacement_rate: Fraction of the mature units replaced per decision, in ``[0, 1]``.
        maturity_threshold: A unit is mature when its age exceeds this many optimizer steps.

    Raises:
        InvalidArgumentError: If an argument is out of its range.
    """

    replacement_rate: float = 1e-4
    maturity_threshold: int = 100

    def __post_init__(self) -> None:
        _check_rate(self.replacement_rate)
        _check_threshold(self.maturity_threshold)

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Add this decision's share of the mature units to what is due and return the whole units of it."""
        return _accrue(ages, self.replacement_rate, self.maturity_threshold)

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return ``due`` mature units; the score is not looked at."""
        mature = ages.mature_units(self.maturity_threshold)
        return mature[torch.randperm(len(mature), generator=generator, device="cpu")[:due]]


def _accrue(ages: Ages, replacement_rate: float, maturity_threshold: int) -> int:
    mature = ages.mature_count(maturity_threshold)
    if not mature:
        return 0
    ages.carry += replacement_rate * mature
    count = min(math.floor(ages.carry), mature)
    ages.carry -= count
    return count


def _check_rate(rate: float) -> None:
    check_number(
        "replacement_rate",
        rate,
        "[0, 1]",
        meaning="the fraction of the mature units that is replaced per optimizer step",
        remedy="Pass a small number such as 1e-4; 0 switches replacement off",
    )


def _check_threshold(threshold: int) -> None:
    check_number(
        "maturity_threshold",
        threshold,
        "[0, inf)",
        whole=True,
        meaning="the optimizer steps for which a new unit is protected",
        remedy="Pass a number such as 100; 0 protects no unit",
    )
