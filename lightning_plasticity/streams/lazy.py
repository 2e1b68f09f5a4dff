"""Streams whose experiences are built when they are asked for, and the labelled data they are built from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams.randomness import derived_generator


class LazyStream(Sequence[Dataset[Any]]):
    """A sequence of datasets, each built anew whenever it is asked for and kept by nobody.

    A subclass says how many there are and how to build one; experience 700 may not depend on experience 699 having
    been built.
    """

    @abstractmethod
    def build(self, place: int) -> Dataset[Any]:
        """Build the experience at a place, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> Dataset[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Dataset[Any]]: ...

    def __getitem__(self, index: int | slice) -> Dataset[Any] | Sequence[Dataset[Any]]:
        if isinstance(index, slice):
            return _Part(self, range(len(self))[index])
        return self.build(range(len(self))[index])


class _Part(LazyStream):
    def __init__(self, stream: LazyStream, places: range) -> None:
        self._stream, self._places = stream, places

    def __len__(self) -> int:
        return len(self._places)

    def build(self, place: int) -> Dataset[Any]:
        return self._stream.build(self._places[place])


class Transform(Protocol):
    """A function of one input that can be computed for many at once."""

    def __call__(self, x: Any) -> Any:
        """Return the image of one input."""

    def batch(self, x: Tensor) -> Tensor:
        """Return the images of inputs ``[N, ...]``."""


class RelabelledDataset(Dataset[tuple[Any, int]]):
    """Chosen samples of a dataset, under labels of our own and through a function of the input.

    Args:
        dataset: Where the inputs come from; a sample is a tuple that starts with the input.
        indices: Which samples, ``[N]``.
        targets: Their labels, ``[N]``. Avalanche reads the attribute of this name.
        transform: Applied to each input, and to all of them at once, ``[N, ...]``, by :meth:`at_once`; None leaves them
            alone.
    """

    def __init__(
        self, dataset: Dataset[Any], indices: Tensor, targets: Tensor, transform: Transform | None = None
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.indices: list[int] = indices.tolist()
        self.targets: list[int] = targets.tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x = self.dataset[self.indices[index]][0]
        return (x if self.transform is None else self.transform(x)), self.targets[index]

    def at_once(self) -> tuple[Tensor, Tensor] | None:
        """Return all inputs and labels, or None unless the inputs come from a tensor: far faster than one by one."""
        if not isinstance(self.dataset, TensorDataset):
            return None
        x = self.dataset.tensors[0][self.indices]
        return (x if self.transform is None else self.transform.batch(x)), torch.tensor(self.targets)


@runtime_checkable
class HasTargets(Protocol):
    """A dataset that lists its labels, as those of torchvision and Avalanche do."""

    @property
    def targets(self) -> Any:
        """One label per sample."""


def labels_of(dataset: Dataset[Any]) -> Tensor:
    """Return the labels of a dataset, without loading its inputs where that can be helped.

    Args:
        dataset: A ``TensorDataset(x, y)``, a dataset with ``targets``, a ``Subset`` of one of them, or anything that
            yields ``(x, y)``, which is then read once from end to end.

    Returns:
        The labels, ``[N]``, of an integer type.

    Raises:
        InvalidArgumentError: If the labels are not whole numbers.

    Example:
        >>> labels_of(Subset(TensorDataset(torch.zeros(3, 1), torch.tensor([4, 5, 6])), [2, 0]))
        tensor([6, 4])
    """
    if isinstance(dataset, TensorDataset):
        labels = dataset.tensors[1]
    elif isinstance(dataset, HasTargets):
        labels = torch.as_tensor(list(dataset.targets))
    elif isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)[torch.as_tensor(list(dataset.indices))]
    else:
        labels = torch.as_tensor([int(dataset[index][1]) for index in range(len(dataset))])  # type: ignore[arg-type]
    if labels.is_floating_point() or labels.ndim != 1:
        raise InvalidArgumentError(
            f"labels of type {labels.dtype} and shape {tuple(labels.shape)} in a {type(dataset).__name__}",
            "one whole number per sample",
            "Pass a dataset of classes",
        )
    return labels.cpu()


def chosen_samples(size: int, count: int | None, seed: int, place: int) -> Tensor:
    """Return which of ``size`` samples an experience has: all, or ``count`` drawn without replacement.

    Args:
        size: Number of samples of the dataset.
        count: Number of samples of the experience; None takes all in order. If there are not enough, every sample
            comes once before any comes twice.
        seed: Seed of the stream.
        place: The place of the experience.

    Returns:
        Indices in ``[0, size)``, ``[count]``.

    Example:
        >>> chosen_samples(3, 7, seed=0, place=0).bincount().sort().values
        tensor([2, 2, 3])
    """
    if count is None:
        return torch.arange(size)
    generator = derived_generator(seed, "samples", place)
    rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return torch.cat(rounds)[:count]
