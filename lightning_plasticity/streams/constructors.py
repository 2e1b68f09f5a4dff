"""Constructors of Avalanche benchmarks: lazily built, fixed by a seed.

Every one of them has a stream of plain datasets behind it, for those who do without Avalanche.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from lightning_plasticity.streams.benchmark import lazy_benchmark
from lightning_plasticity.streams.classes import ClassPairs, GrowingClasses
from lightning_plasticity.streams.permuted import PermutedInputs, PermutedLabels
from lightning_plasticity.streams.regression import SlowlyChangingRegression

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


def class_incremental(
    train: Dataset[Any],
    classes_per_experience: int,
    *,
    test: Dataset[Any] | None = None,
    keep_seen: bool = True,
    class_order: Sequence[int] | None = None,
    seed: int = 0,
) -> CLScenario:
    """Return the benchmark of :class:`GrowingClasses`: a few classes more appear with every experience.

    Args:
        train: Labelled training samples ``(x, y)``.
        classes_per_experience: How many classes appear with each experience.
        test: Labelled test samples, of the same classes.
        keep_seen: Whether an experience, in training and in test, has all classes seen so far or its new ones only.
        class_order: The classes in the order of appearance; None shuffles them.
        seed: Fixes the order.

    Returns:
        A benchmark with a ``train_stream`` and, given test data, a ``test_stream``; labels are places in the order.
    """
    stream = GrowingClasses(train, classes_per_experience, keep_seen=keep_seen, class_order=class_order, seed=seed)
    if test is None:
        return lazy_benchmark(stream)
    order = stream.class_order
    return lazy_benchmark(stream, GrowingClasses(test, classes_per_experience, keep_seen=keep_seen, class_order=order))


def class_pairs(
    train: Dataset[Any],
    num_experiences: int,
    *,
    test: Dataset[Any] | None = None,
    repeat_order: bool = False,
    seed: int = 0,
) -> CLScenario:
    """Return the benchmark of :class:`ClassPairs`: binary tasks between two classes, as in Continual ImageNet.

    Args:
        train: Labelled training samples ``(x, y)``.
        num_experiences: Length of the stream.
        test: Labelled test samples, of the same classes.
        repeat_order: Whether the same pairs come again once every class has come, as in the published code.
        seed: Fixes the pairs.

    Returns:
        A benchmark with a ``train_stream`` and, given test data, a ``test_stream``; labels are 0 and 1.
    """
    streams = [
        ClassPairs(dataset, num_experiences, repeat_order=repeat_order, seed=seed)
        for dataset in (train, test)
        if dataset is not None
    ]
    return lazy_benchmark(*streams)


def slowly_changing_regression(
    num_experiences: int,
    samples_per_experience: int = 10_000,
    *,
    slow_bits: int = 15,
    random_bits: int = 5,
    flips: int | None = 1,
    published_offset: bool = False,
    seed: int = 0,
) -> CLScenario:
    """Return the benchmark of :class:`SlowlyChangingRegression`: one of the fixed input bits flips per experience.

    Args:
        num_experiences: Length of the stream.
        samples_per_experience: Samples between two flips.
        slow_bits: Bits that are fixed within an experience.
        random_bits: Bits that are random in every sample.
        flips: Slow bits that flip between two experiences; None redraws all.
        published_offset: Whether the thresholds of the target network are those of the published code.
        seed: Fixes target network and stream.

    Returns:
        A benchmark with a ``train_stream`` of regression data: bits and real-valued targets.
    """
    stream = SlowlyChangingRegression(
        num_experiences,
        samples_per_experience,
        slow_bits=slow_bits,
        random_bits=random_bits,
        flips=flips,
        published_offset=published_offset,
        seed=seed,
    )
    return lazy_benchmark(stream)
