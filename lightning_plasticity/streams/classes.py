"""Streams made of the classes of one dataset: more and more of them, or two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_counts, check_flags, check_number
from lightning_plasticity.streams.lazy import LazyStream, RelabelledDataset, labels_of
from lightning_plasticity.streams.randomness import derived_generator


class GrowingClasses(LazyStream):
    """A stream in which a few classes more appear with every experience: class-incremental learning.

    Labels are the classes' places in the order of appearance, so the classes seen so far are ``0 … n - 1`` and the
    logits of the others can be cut off. The last experience has fewer new classes if they do not divide evenly.

    Args:
        dataset: Labelled samples ``(x, y)``.
        classes_per_experience: How many classes appear with each experience.
        keep_seen: Whether the samples of all classes seen so far stay available, as in the incremental CIFAR-100 of
            Dohare et al.; otherwise an experience has those of its new classes only.
        class_order: The classes in the order of appearance; None shuffles them.
        seed: Fixes the order. Streams of training and test data that belong together have the same seed.

    Raises:
        InvalidArgumentError: If a number is not positive, or ``class_order`` is not an order of the dataset's classes.

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), class-incremental CIFAR-100.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> letters = TensorDataset(torch.zeros(6, 1), torch.tensor([0, 1, 2, 3, 0, 1]))
        >>> stream = GrowingClasses(letters, classes_per_experience=2, class_order=[3, 1, 0, 2])
        >>> [stream[place].targets for place in range(2)]
        [[1, 0, 1], [2, 1, 3, 0, 2, 1]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        classes_per_experience: int,
        *,
        keep_seen: bool = True,
        class_order: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        check_counts(classes_per_experience=classes_per_experience)
        check_number("seed", seed, "[0, inf)", whole=True)
        check_flags(keep_seen=keep_seen)
        self.dataset, self.classes_per_experience, self.keep_seen = dataset, classes_per_experience, keep_seen
        classes, ranks = torch.unique(labels_of(dataset), return_inverse=True)
        if class_order is None:
            order = torch.randperm(len(classes), generator=derived_generator(seed, "classes"))
        else:
            _check_order(class_order, classes)
            order = torch.searchsorted(classes, torch.tensor(class_order))
        self.class_order: list[int] = classes[order].tolist()
        self._places = torch.argsort(order)[ranks]

    def __len__(self) -> int:
        return -(-len(self.class_order) // self.classes_per_experience)

    @override
    def build(self, place: int) -> RelabelledDataset:
        """Build one experience.

        Args:
            place: Its place in the stream.

        Returns:
            The samples of its classes, labelled by their order of appearance.
        """
        end = (place + 1) * self.classes_per_experience
        chosen = self._places < end
        if not self.keep_seen:
            chosen &= self._places >= end - self.classes_per_experience
        indices = torch.nonzero(chosen).flatten()
        return RelabelledDataset(self.dataset, indices, self._places[indices])


class ClassPairs(LazyStream):
    """A stream of binary tasks, each between two classes, as in Continual ImageNet.

    The classes are paired off in rounds: within a round no class comes twice, and no pair comes again before every pair
    has come. After ``C (C - 1) / 2`` experiences (499 500 for 1000 classes) the rounds begin again in another order.

    Differs from the published code, which repeats one stored order of the classes and with it the same ``C / 2`` pairs;
    ``repeat_order`` gives that.

    Args:
        dataset: Labelled samples ``(x, y)`` of at least two classes. With an odd number one class sits out each round.
        num_experiences: Length of the stream.
        repeat_order: Whether the first round is repeated for ever.
        seed: Fixes the pairs. Streams of training and test data that belong together have the same seed.

    Raises:
        InvalidArgumentError: If there are fewer than two classes or experiences.

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), Continual ImageNet.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> letters = TensorDataset(torch.zeros(4, 1), torch.arange(4))
        >>> stream = ClassPairs(letters, num_experiences=6)
        >>> sorted(sorted(stream.pair(place)) for place in range(6))
        [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    """

    def __init__(
        self, dataset: Dataset[Any], num_experiences: int, *, repeat_order: bool = False, seed: int = 0
    ) -> None:
        check_counts(num_experiences=num_experiences)
        check_number("seed", seed, "[0, inf)", whole=True)
        check_flags(repeat_order=repeat_order)
        self.dataset, self.num_experiences, self.repeat_order, self.seed = dataset, num_experiences, repeat_order, seed
        self._labels = labels_of(dataset)
        self.classes = torch.unique(self._labels)
        if len(self.classes) < 2:
            raise InvalidArgumentError(
                f"a dataset with the classes {self.classes.tolist()}", "at least two classes", "Pass another dataset"
            )

    def __len__(self) -> int:
        return self.num_experiences

    def pair(self, place: int) -> tuple[int, int]:
        """Return the two classes of an experience, the one labelled 0 first.

        Args:
            place: Its place in the stream.

        Returns:
            Two classes of the dataset.
        """
        size = len(self.classes)
        seats, per_round = size + size % 2, size // 2
        rounds, seat = divmod(place, per_round)
        cycle, turn = divmod(0 if self.repeat_order else rounds, seats - 1)
        generator = derived_generator(self.seed, "pairs", cycle)
        order = torch.randperm(size, generator=generator)
        turn = int(torch.randperm(seats - 1, generator=generator)[turn])
        pairs = [(a, b) for a, b in _round_robin(seats, turn) if max(a, b) < size]
        a, b = pairs[seat]
        return int(self.classes[order[a]]), int(self.classes[order[b]])

    @override
    def build(self, place: int) -> RelabelledDataset:
        """Build one experience.

        Args:
            place: Its place in the stream.

        Returns:
            The samples of its two classes under the labels 0 and 1.
        """
        first, second = self.pair(place)
        indices = torch.nonzero((self._labels == first) | (self._labels == second)).flatten()
        return RelabelledDataset(self.dataset, indices, (self._labels[indices] == second).long())


def _round_robin(seats: int, turn: int) -> list[tuple[int, int]]:
    """Pair an even number of seats so that over ``seats - 1`` turns every two meet once (the circle method)."""
    circle = [(turn + k) % (seats - 1) for k in range(seats - 1)]
    return [(seats - 1, circle[0])] + [(circle[k], circle[-k]) for k in range(1, seats // 2)]


def _check_order(class_order: Sequence[int], classes: Tensor) -> None:
    if sorted(class_order) != classes.tolist():
        raise InvalidArgumentError(
            f"`class_order` of {len(class_order)} classes, {list(class_order)[:5]} and so on",
            f"an order of the dataset's {len(classes)} classes, {classes[:5].tolist()} and so on",
            "Pass each class once, or None for a shuffled order",
        )
