"""Measures of continual learning from a matrix of accuracies.

Letters: ``E`` experiences. Entry ``[i, j]`` of the matrix is the accuracy on experience ``j`` after training on
experience ``i``; NaN where it was not measured. The matrix may be filled in any order. A measure that needs an entry
that is missing is NaN; it never guesses. Any other score of which more is better may take the place of accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError


def average_accuracy(accuracies: Tensor) -> Tensor:
    """Return the mean accuracy on all experiences seen, after training on the last one measured.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.

    Returns:
        The mean of ``a[T, j]`` over ``j ≤ T``, with ``T`` the last row that holds a number.

    Raises:
        InvalidArgumentError: If the matrix is not square.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 2.

    Example:
        >>> average_accuracy(torch.tensor([[0.9, torch.nan], [0.5, 0.7]]))
        tensor(0.6000)
    """
    seen = _seen(accuracies)
    return seen[-1:].mean()


def forgetting(accuracies: Tensor) -> Tensor:
    """Return how far accuracy has fallen from its best, averaged over all experiences but the last.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.

    Returns:
        The mean of ``max_{i < T} a[i, j] - a[T, j]`` over ``j < T``, in ``[-1, 1]``, the best being that of the rows
        measured; NaN before the second experience.

    Raises:
        InvalidArgumentError: If the matrix is not square.

    References:
        Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, equation 3.

    Example:
        >>> forgetting(torch.tensor([[0.9, torch.nan], [0.5, 0.7]]))
        tensor(0.4000)
    """
    seen = _seen(accuracies)
    earlier = seen[:-1, :-1]
    if not earlier.numel():
        return accuracies.new_full((), torch.nan)
    best = earlier.where(earlier.isfinite(), -torch.inf).amax(0)
    return (best.where(best.isfinite(), torch.nan) - seen[-1, :-1]).mean()


def backward_transfer(accuracies: Tensor) -> Tensor:
    """Return how much later experiences changed the accuracy on earlier ones; negative if they were forgotten.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.

    Returns:
        The mean of ``a[T, j] - a[j, j]`` over ``j < T``, in ``[-1, 1]``; NaN before the second experience.

    Raises:
        InvalidArgumentError: If the matrix is not square.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 3.

    Example:
        >>> backward_transfer(torch.tensor([[0.9, torch.nan], [0.5, 0.7]]))
        tensor(-0.4000)
    """
    seen = _seen(accuracies)
    return (seen[-1:, :-1].reshape(-1) - seen.diagonal()[:-1]).mean()


def forward_transfer(accuracies: Tensor, untrained: Tensor) -> Tensor:
    """Return how much earlier experiences helped with the next one before it was trained on.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.
        untrained: Accuracy of an untrained network on every experience, ``[E]``.

    Returns:
        The mean of ``a[j - 1, j] - untrained[j]`` over ``1 ≤ j ≤ T``, in ``[-1, 1]``; NaN before the second experience.

    Raises:
        InvalidArgumentError: If the matrix is not square or ``untrained`` is not of its length.

    References:
        Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, equation 4.

    Example:
        >>> forward_transfer(torch.tensor([[0.9, 0.4], [0.5, 0.7]]), torch.tensor([0.1, 0.1]))
        tensor(0.3000)
    """
    seen, baseline = _seen(accuracies), _per_experience("untrained", untrained, accuracies)
    return (seen.diagonal(1) - baseline[1 : len(seen)]).mean()


def intransigence(accuracies: Tensor, from_scratch: Tensor) -> Tensor:
    """Return what a network trained from scratch on each experience alone reaches more than the continual one.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.
        from_scratch: Accuracy on every experience of a fresh network trained on it alone, ``[E]``.

    Returns:
        The mean of ``from_scratch[j] - a[j, j]`` over ``j ≤ T``, in ``[-1, 1]``; positive if plasticity was lost.

    Raises:
        InvalidArgumentError: If the matrix is not square or ``from_scratch`` is not of its length.

    References:
        Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, equation 5. They compare with a network
        trained on all experiences up to ``j`` together; pass its accuracies for exactly their measure.

    Example:
        >>> intransigence(torch.tensor([[0.9, torch.nan], [0.5, 0.7]]), torch.tensor([0.9, 0.8]))
        tensor(0.0500)
    """
    seen, baseline = _seen(accuracies), _per_experience("from_scratch", from_scratch, accuracies)
    return (baseline[: len(seen)] - seen.diagonal()).mean()


def relative_accuracy(accuracies: Tensor, from_scratch: Tensor) -> Tensor:
    """Return the accuracy of the continual network relative to that of networks trained from scratch.

    Args:
        accuracies: Matrix ``[E, E]``, NaN where not measured.
        from_scratch: Accuracy on every experience of a fresh network trained on it alone, ``[E]``, above 0.

    Returns:
        The mean of ``a[j, j] / from_scratch[j]`` over ``j ≤ T``; 1 if no plasticity was lost.

    Raises:
        InvalidArgumentError: If the matrix is not square or ``from_scratch`` is not of its length.

    Example:
        >>> relative_accuracy(torch.tensor([[0.9, torch.nan], [0.5, 0.6]]), torch.tensor([0.9, 0.8]))
        tensor(0.8750)
    """
    seen, baseline = _seen(accuracies), _per_experience("from_scratch", from_scratch, accuracies)
    return (seen.diagonal() / baseline[: len(seen)]).mean()


def online_accuracy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the share of right predictions; online if every prediction was made before training on its sample.

    Args:
        predictions: Classes ``[N]``, or scores of classes ``[N, C]``.
        targets: Classes ``[N]``.

    Returns:
        The share in ``[0, 1]``, a float64 scalar; NaN without samples.

    Raises:
        InvalidArgumentError: If the shapes do not fit together.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (online permuted MNIST).

    Example:
        >>> online_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    return right_predictions(predictions, targets).double().mean()


def right_predictions(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return which predictions are right.

    Args:
        predictions: Classes ``[N]``, or scores of classes ``[N, C]``.
        targets: Classes ``[N]``.

    Returns:
        Mask ``[N]``. Scores that are not finite are wrong.

    Raises:
        InvalidArgumentError: If the shapes do not fit together.
    """
    if predictions.shape[:1] != targets.shape or predictions.ndim > 2:
        raise InvalidArgumentError(
            f"predictions of shape {list(predictions.shape)} for targets of shape {list(targets.shape)}",
            "predictions [N] or [N, C] and targets [N]",
            "Flatten both to one row per sample",
        )
    if predictions.ndim == 1:
        return predictions == targets
    return (predictions.argmax(1) == targets) & predictions.isfinite().all(1)


def area_under_curve(values: Tensor, times: Tensor | None = None) -> Tensor:
    """Return the mean height of a curve, by the trapezoidal rule: the area under it divided by its length.

    Args:
        values: A measure over time, ``[T]``.
        times: When it was measured, ascending, ``[T]``; default: at even distances.

    Returns:
        The mean, in the unit of ``values``; the value itself if there is one, NaN if there is none.

    Raises:
        InvalidArgumentError: If the two differ in length.

    Example:
        >>> area_under_curve(torch.tensor([0.0, 1.0, 1.0]))
        tensor(0.7500)
    """
    if times is None:
        times = torch.arange(len(values), dtype=values.dtype, device=values.device)
    if times.shape != values.shape:
        raise InvalidArgumentError(
            f"{list(values.shape)} values at {list(times.shape)} times", "one time per value", "Correct `times`"
        )
    return values.mean() if len(values) < 2 else torch.trapezoid(values, times) / (times[-1] - times[0])


def _seen(accuracies: Tensor) -> Tensor:
    """Return the matrix up to the last experience that was trained on, ``[T + 1, T + 1]``."""
    if accuracies.ndim != 2 or accuracies.shape[0] != accuracies.shape[1]:
        raise InvalidArgumentError(
            f"accuracies of shape {list(accuracies.shape)}",
            "a square matrix [E, E]: trained on by evaluated on",
            "Fill what was not measured with NaN",
        )
    rows = accuracies.isfinite().any(1).nonzero()
    last = int(rows[-1]) + 1 if len(rows) else 0
    return accuracies[:last, :last]


def _per_experience(name: str, values: Tensor, accuracies: Tensor) -> Tensor:
    if values.shape != accuracies.shape[:1]:
        raise InvalidArgumentError(
            f"`{name}` of shape {list(values.shape)}",
            f"one value per experience, [{len(accuracies)}]",
            f"Correct `{name}`",
        )
    return values.to(accuracies)
