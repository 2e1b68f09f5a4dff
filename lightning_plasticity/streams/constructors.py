"""Constructors of Avalanche benchmarks: lazily built, fixed by a seed.

Every one of them has a stream of plain datasets behind it, for those who do without Avalanche.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from lightning_plasticity.streams.benchmark import lazy_benchmark
from lightning_plasticity.streams.permuted import PermutedInputs, PermutedLabels

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


def input_permuted(
    train: Dataset[Any],
    num_experiences: int,
    *,
    test: Dataset[Any] | None = None,
    fraction: float = 1.0,
    samples_per_experience: int | None = None,
    seed: int = 0,
) -> CLScenario:
    """Return the benchmark of :class:`PermutedInputs`: the pixels are permuted anew in every experience.

    Args:
        train: Labelled training samples ``(x, y)``, where ``x`` is a tensor.
        num_experiences: Length of the stream.
        test: Labelled test samples, permuted alike.
        fraction: Part of the pixels that each experience permutes on top of the one before, in ``(0, 1]``.
        samples_per_experience: Training samples drawn anew for each experience; None takes all.
        seed: Fixes the stream.

    Returns:
        A benchmark with a ``train_stream`` and, given test data, a ``test_stream``.
    """
    stream = PermutedInputs(
        train, num_experiences, fraction=fraction, samples_per_experience=samples_per_experience, seed=seed
    )
    test_stream = None if test is None else PermutedInputs(test, num_experiences, fraction=fraction, seed=seed)
    return lazy_benchmark(stream, test_stream)


def label_permuted(
    train: Dataset[Any],
    num_experiences: int,
    *,
    test: Dataset[Any] | None = None,
    fraction: float = 1.0,
    samples_per_experience: int | None = None,
    seed: int = 0,
) -> CLScenario:
    """Return the benchmark of :class:`PermutedLabels`: the labels are permuted anew in every experience.

    Args:
        train: Labelled training samples ``(x, y)``.
        num_experiences: Length of the stream.
        test: Labelled test samples, of the same classes, permuted alike.
        fraction: Part of the classes that each experience permutes on top of the one before, in ``(0, 1]``.
        samples_per_experience: Training samples drawn anew for each experience; None takes all.
        seed: Fixes the stream.

    Returns:
        A benchmark with a ``train_stream`` and, given test data, a ``test_stream``.
    """
    stream = PermutedLabels(
        train, num_experiences, fraction=fraction, samples_per_experience=samples_per_experience, seed=seed
    )
    test_stream = None if test is None else PermutedLabels(test, num_experiences, fraction=fraction, seed=seed)
    return lazy_benchmark(stream, test_stream)
