"""Streams of one dataset whose pixels, or whose labels, are permuted anew in every experience."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_counts, check_number
from lightning_plasticity.streams.lazy import LazyStream, RelabelledDataset, chosen_samples, labels_of
from lightning_plasticity.streams.randomness import derived_generator


def drifting_permutation(size: int, steps: int, fraction: float, seed: int) -> Tensor:
    """Return the product of ``steps`` random permutations, each of a random part of the positions.

    With ``fraction=1`` every one of them is uniform and independent of those before it.

    Args:
        size: Number of positions ``P``.
        steps: How many permutations are applied, one on top of the other.
        fraction: Part of the positions that each of them permutes, in ``(0, 1]``.
        seed: Seed of the stream.

    Returns:
        Where each position takes its value from, ``[P]``.

    Example:
        >>> drifting_permutation(4, steps=0, fraction=1.0, seed=0)
        tensor([0, 1, 2, 3])
    """
    permutation = torch.arange(size)
    moved = round(fraction * size)
    for step in range(steps):
        generator = derived_generator(seed, "permutation", step)
        positions = torch.randperm(size, generator=generator)[:moved]
        turned = positions[torch.randperm(moved, generator=generator)]
        permutation[positions] = permutation[turned]
    return permutation


class InputPermutation:
    """Permute the entries of a tensor of any shape; a class, since worker processes must pickle it."""

    def __init__(self, seed: int, steps: int, fraction: float) -> None:
        self._seed, self._steps, self._fraction = seed, steps, fraction
        self._permutation: Tensor | None = None

    def __call__(self, x: Any) -> Tensor:
        """Return an input with its entries permuted.

        Args:
            x: The input, a tensor of any shape.

        Returns:
            A tensor of that shape.

        Raises:
            InvalidArgumentError: If the input is no tensor.
        """
        if not isinstance(x, Tensor):
            raise InvalidArgumentError(
                f"an input of type {type(x).__name__}",
                "a tensor, whose entries can be permuted",
                "Give the dataset a transform to tensors, such as `torchvision.transforms.ToTensor()`",
            )
        return x.flatten()[self._sources(x.numel())].view(x.shape)

    def batch(self, x: Tensor) -> Tensor:
        """Return inputs with their entries permuted, all alike.

        Args:
            x: The inputs, ``[N, ...]``.

        Returns:
            A tensor of that shape.
        """
        return x.flatten(1)[:, self._sources(x[0].numel())].view(x.shape)

    def _sources(self, size: int) -> Tensor:
        if self._permutation is None:
            self._permutation = drifting_permutation(size, self._steps, self._fraction, self._seed)
        return self._permutation


class PermutedInputs(LazyStream):
    """A stream in which every experience permutes the pixels on top of the permutation before it.

    This is Online Permuted MNIST, for any dataset of tensors. With ``fraction`` below 1 the stream drifts gradually.

    Args:
        dataset: Labelled samples ``(x, y)``; all entries of ``x``, of whatever shape, are permuted.
        num_experiences: Length of the stream.
        fraction: Part of the pixels that each experience permutes, in ``(0, 1]``.
        samples_per_experience: Samples drawn anew for each experience; None takes the whole dataset.
        seed: Fixes the stream. Streams of training and test data that belong together have the same seed.

    Raises:
        InvalidArgumentError: If a number is out of its range.

    References:
        Goodfellow et al., An empirical investigation of catastrophic forgetting (ICLR 2014). Dohare et al., Loss of
        plasticity in deep continual learning (Nature 632, 2024), Online Permuted MNIST.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> digits = TensorDataset(torch.arange(4.0).view(1, 4), torch.tensor([7]))
        >>> stream = PermutedInputs(digits, num_experiences=800)
        >>> x, y = stream[799][0]
        >>> sorted(x.tolist()), y
        ([0.0, 1.0, 2.0, 3.0], 7)
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_experiences: int,
        *,
        fraction: float = 1.0,
        samples_per_experience: int | None = None,
        seed: int = 0,
    ) -> None:
        check_counts(num_experiences=num_experiences, samples_per_experience=samples_per_experience)
        check_number("seed", seed, "[0, inf)", whole=True)
        check_fraction(fraction)
        self.dataset, self.num_experiences, self.fraction = dataset, num_experiences, fraction
        self.samples_per_experience, self.seed = samples_per_experience, seed
        self._labels = labels_of(dataset)

    def __len__(self) -> int:
        return self.num_experiences

    @override
    def build(self, place: int) -> RelabelledDataset:
        """Build one experience.

        Args:
            place: Its place in the stream.

        Returns:
            The samples with permuted inputs.
        """
        indices = chosen_samples(len(self._labels), self.samples_per_experience, self.seed, place)
        permutation = InputPermutation(self.seed, place + 1, self.fraction)
        return RelabelledDataset(self.dataset, indices, self._labels[indices], permutation)


class PermutedLabels(LazyStream):
    """A stream in which every experience permutes the labels on top of the permutation before it.

    Args:
        dataset: Labelled samples ``(x, y)``.
        num_experiences: Length of the stream.
        fraction: Part of the classes that each experience permutes, in ``(0, 1]``.
        samples_per_experience: Samples drawn anew for each experience; None takes the whole dataset.
        seed: Fixes the stream. Streams of training and test data that belong together have the same seed.

    Raises:
        InvalidArgumentError: If a number is out of its range.

    References:
        Elsayed and Mahmood, Addressing loss of plasticity and catastrophic forgetting in continual learning (ICLR
        2024), label-permuted problems.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> digits = TensorDataset(torch.zeros(3, 1), torch.tensor([0, 1, 2]))
        >>> sorted(y for x, y in PermutedLabels(digits, num_experiences=5)[4])
        [0, 1, 2]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_experiences: int,
        *,
        fraction: float = 1.0,
        samples_per_experience: int | None = None,
        seed: int = 0,
    ) -> None:
        check_counts(num_experiences=num_experiences, samples_per_experience=samples_per_experience)
        check_number("seed", seed, "[0, inf)", whole=True)
        check_fraction(fraction)
        self.dataset, self.num_experiences, self.fraction = dataset, num_experiences, fraction
        self.samples_per_experience, self.seed = samples_per_experience, seed
        self.classes, self._ranks = torch.unique(labels_of(dataset), return_inverse=True)

    def __len__(self) -> int:
        return self.num_experiences

    @override
    def build(self, place: int) -> RelabelledDataset:
        """Build one experience.

        Args:
            place: Its place in the stream.

        Returns:
            The samples under permuted labels.
        """
        indices = chosen_samples(len(self._ranks), self.samples_per_experience, self.seed, place)
        permutation = drifting_permutation(len(self.classes), place + 1, self.fraction, self.seed)
        return RelabelledDataset(self.dataset, indices, self.classes[permutation][self._ranks[indices]])


def check_fraction(fraction: float) -> None:
    """Refuse a fraction outside ``(0, 1]``.

    Args:
        fraction: The number.

    Raises:
        InvalidArgumentError: If it is out of range.
    """
    check_number("fraction", fraction, "(0, 1]", remedy="Pass 1.0 to permute everything")
