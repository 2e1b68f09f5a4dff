"""What counts as an experience: a dataset, or an object of Avalanche's that carries one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import Dataset

from lightning_plasticity.errors import InvalidArgumentError, check_flags


@runtime_checkable
class Experience(Protocol):
    """An experience as Avalanche has them: a dataset and its place in a stream.

    No dataset of torch has both attributes, so the two are not confused (``torch.utils.data.Subset`` has a ``dataset``
    too).
    """

    @property
    def dataset(self) -> Any:
        """The samples."""

    @property
    def current_experience(self) -> int:
        """The place in the stream, from 0."""


@dataclass(frozen=True)
class Samples:
    """The samples of one experience.

    Args:
        dataset: The samples.
        fields: How many leading entries of each sample are used; None uses all.
    """

    dataset: Dataset[Any]
    fields: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


class ExperienceSamples:
    """The samples of every experience of a stream, asked for when they are needed and not kept.

    Args:
        experiences: A stream of Avalanche (``benchmark.train_stream``) or a sequence of datasets: whatever has a length
            and an index. Nothing but the length is read here, so that lazily built experiences stay unbuilt.
        task_labels: Whether samples of Avalanche keep what follows ``(x, y)``: the task label.
        name: Name of the argument, for messages.

    Raises:
        InvalidArgumentError: If ``experiences`` has no length or no index, or is empty.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> stream = [TensorDataset(torch.zeros(size, 2), torch.zeros(size)) for size in (3, 5)]
        >>> [len(ExperienceSamples(stream)[index]) for index in range(2)]
        [3, 5]
    """

    def __init__(self, experiences: Sequence[Any], *, task_labels: bool = False, name: str = "experiences") -> None:
        kind = type(experiences).__name__
        if not isinstance(experiences, Sequence):
            raise InvalidArgumentError(
                f"`{name}` is a {kind}",
                "a sequence, with a length and an index, of datasets or of Avalanche's experiences",
                "Pass `benchmark.train_stream` rather than the benchmark, or `list(...)` of a generator",
            )
        if not experiences:
            raise InvalidArgumentError(f"`{name}` is an empty {kind}", "at least one experience", "Pass a longer one")
        check_flags(task_labels=task_labels)
        self._experiences, self._task_labels, self._name = experiences, task_labels, name

    def __len__(self) -> int:
        return len(self._experiences)

    def __getitem__(self, index: int) -> Samples:
        experience = self._experiences[index]
        if isinstance(experience, Experience):
            samples = Samples(experience.dataset, None if self._task_labels else 2)
        else:
            samples = Samples(experience)
        if len(samples) == 0:
            raise InvalidArgumentError(
                f"`{self._name}[{index}]` has no samples", "at least one sample per experience", "Leave it out"
            )
        return samples
