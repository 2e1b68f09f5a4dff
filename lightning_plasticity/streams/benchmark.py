"""Lazily built streams as benchmarks of Avalanche, which is imported when one is made and not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from lightning_plasticity.streams.lazy import HasTargets

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


def lazy_benchmark(train: Sequence[Dataset[Any]], test: Sequence[Dataset[Any]] | None = None) -> CLScenario:
    """Return a benchmark whose streams build an experience whenever it is asked for and keep none.

    Args:
        train: The datasets of ``benchmark.train_stream``.
        test: Those of ``benchmark.test_stream``; None makes a benchmark without one.

    Returns:
        The benchmark. Datasets with ``targets`` become Avalanche's classification datasets.
    """
    from avalanche.benchmarks.scenarios.dataset_scenario import DatasetExperience
    from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, SequenceCLStream
    from avalanche.benchmarks.utils import as_avalanche_dataset, as_classification_dataset

    class LazyExperiences(SequenceCLStream):  # type: ignore[misc]  # Avalanche has no type information
        def __init__(self, name: str, datasets: Sequence[Dataset[Any]]) -> None:
            self._datasets = datasets
            super().__init__(name, benchmark=None)

        def _full_length(self) -> int:
            return len(self._datasets)

        def _make_experience(self, experience_idx: int) -> DatasetExperience:
            dataset = self._datasets[experience_idx]
            convert = as_classification_dataset if isinstance(dataset, HasTargets) else as_avalanche_dataset
            return DatasetExperience(dataset=convert(dataset), current_experience=experience_idx)

    streams = [LazyExperiences("train", train)]
    if test is not None:
        streams.append(LazyExperiences("test", test))
    benchmark = CLScenario(streams)
    for stream in streams:
        stream.benchmark = benchmark
    return benchmark
