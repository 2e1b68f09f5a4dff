"""Measures of continual learning as metrics: a matrix of accuracies, filled in any order, by any process.

Letters: ``E`` experiences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.functional import continual as functional
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


class AccuracyMatrix(PlasticityMetric):
    """Accuracy on every experience after training on every experience, ``[E, E]``; NaN where not measured.

    Args:
        num_experiences: Number of experiences ``E``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``num_experiences`` is less than 1.

    Example:
        >>> metric = AccuracyMatrix(2)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.compute()
        tensor([[0.5000,    nan],
                [   nan,    nan]], dtype=torch.float64)
    """

    reads = Reads.PREDICTIONS
    higher_is_better = True

    right: Tensor
    seen: Tensor

    def __init__(self, num_experiences: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("num_experiences", num_experiences, "[1, inf)", whole=True, remedy="Pass the stream's length")
        self.num_experiences = num_experiences
        zeros = torch.zeros(num_experiences, num_experiences, dtype=torch.int64)
        self.add_state("right", zeros, dist_reduce_fx="sum")
        self.add_state("seen", zeros.clone(), dist_reduce_fx="sum")

    @override
    def update(self, predictions: Tensor, targets: Tensor, trained_on: int, evaluated_on: int) -> None:
        """Take in predictions for samples of one experience.

        Args:
            predictions: Classes ``[N]``, or scores of classes ``[N, C]``.
            targets: Classes ``[N]``.
            trained_on: The last experience that the network was trained on, from 0.
            evaluated_on: The experience of the samples, from 0.

        Raises:
            InvalidArgumentError: If there is no such experience.
        """
        for name, place in (("trained_on", trained_on), ("evaluated_on", evaluated_on)):
            if not 0 <= place < self.num_experiences:
                raise InvalidArgumentError(
                    f"`{name}={place}`", f"an experience from 0 to {self.num_experiences - 1}", f"Correct `{name}`"
                )
        right = functional.right_predictions(predictions, targets)
        here = torch.zeros_like(self.seen)
        here[trained_on, evaluated_on] = 1
        self.right = self.right + here * right.sum()
        self.seen = self.seen + here * len(right)

    def accuracies(self) -> Tensor:
        """Return the matrix of accuracies: trained on by evaluated on.

        Returns:
            ``[E, E]``, float64; NaN where not measured.
        """
        return self.right.double() / self.seen

    @override
    def compute(self) -> Tensor:
        """Return the matrix of accuracies, see :meth:`accuracies`."""
        return self.accuracies()


class AverageAccuracy(AccuracyMatrix):
    """Mean accuracy on all experiences seen, after the last one measured; NaN if one of them was not measured.

    Args:
        num_experiences: Number of experiences ``E``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 2.

    Example:
        >>> metric = AverageAccuracy(1)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    @override
    def compute(self) -> Tensor:
        """Return the average accuracy, a float64 scalar."""
        return functional.average_accuracy(self.accuracies())


class Forgetting(AccuracyMatrix):
    """How far accuracy has fallen from its best, averaged over all experiences but the last; in ``[-1, 1]``.

    Args:
        num_experiences: Number of experiences ``E``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, equation 3.

    Example:
        >>> metric = Forgetting(2)
        >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=1, evaluated_on=0)
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = False

    @override
    def compute(self) -> Tensor:
        """Return the forgetting, a float64 scalar; NaN before the second experience."""
        return functional.forgetting(self.accuracies())


class BackwardTransfer(AccuracyMatrix):
    """How much later experiences changed the accuracy on earlier ones, in ``[-1, 1]``.

    Args:
        num_experiences: Number of experiences ``E``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 3.

    Example:
        >>> metric = BackwardTransfer(2)
        >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=1, evaluated_on=0)
        >>> metric.compute()
        tensor(-0.5000, dtype=torch.float64)
    """

    @override
    def compute(self) -> Tensor:
        """Return the backward transfer, a float64 scalar; NaN before the second experience."""
        return functional.backward_transfer(self.accuracies())


class ForwardTransfer(AccuracyMatrix):
    """How much earlier experiences helped with the next one before it was trained on, in ``[-1, 1]``.

    Args:
        untrained: Accuracy of an untrained network on every experience, ``[E]``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 4.

    Example:
        >>> metric = ForwardTransfer(untrained=[0.1, 0.1])
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=0, evaluated_on=1)
        >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 1]), trained_on=1, evaluated_on=1)
        >>> metric.compute()
        tensor(0.4000, dtype=torch.float64)
    """

    def __init__(self, untrained: Sequence[float], **kwargs: Any) -> None:
        super().__init__(len(untrained), **kwargs)
        self.untrained = [float(accuracy) for accuracy in untrained]

    @override
    def compute(self) -> Tensor:
        """Return the forward transfer, a float64 scalar; NaN before the second experience."""
        return functional.forward_transfer(self.accuracies(), torch.tensor(self.untrained, dtype=torch.float64))


class Intransigence(AccuracyMatrix):
    """What networks trained from scratch reach more than the continual one, in ``[-1, 1]``; positive: plasticity lost.

    Args:
        from_scratch: Accuracy on every experience of a fresh network trained on it alone, ``[E]``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    References:
        Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, equation 5. They compare with a network
        trained on all experiences so far together; pass its accuracies for exactly their measure.

    Example:
        >>> metric = Intransigence(from_scratch=[0.9])
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.compute()
        tensor(0.4000, dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, from_scratch: Sequence[float], **kwargs: Any) -> None:
        super().__init__(len(from_scratch), **kwargs)
        self.from_scratch = [float(accuracy) for accuracy in from_scratch]

    @override
    def compute(self) -> Tensor:
        """Return the intransigence, a float64 scalar."""
        return functional.intransigence(self.accuracies(), torch.tensor(self.from_scratch, dtype=torch.float64))


class RelativeAccuracy(AccuracyMatrix):
    """Accuracy of the continual network relative to that of networks trained from scratch; 1: no plasticity lost.

    Args:
        from_scratch: Accuracy on every experience of a fresh network trained on it alone, ``[E]``, above 0.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = RelativeAccuracy(from_scratch=[0.8])
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), trained_on=0, evaluated_on=0)
        >>> metric.compute()
        tensor(0.6250, dtype=torch.float64)
    """

    def __init__(self, from_scratch: Sequence[float], **kwargs: Any) -> None:
        super().__init__(len(from_scratch), **kwargs)
        self.from_scratch = [float(accuracy) for accuracy in from_scratch]

    @override
    def compute(self) -> Tensor:
        """Return the relative accuracy, a float64 scalar."""
        return functional.relative_accuracy(self.accuracies(), torch.tensor(self.from_scratch, dtype=torch.float64))
