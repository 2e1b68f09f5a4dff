"""A loader that iterates over whichever experience is current."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams.batches import LeadingFields, count_batches, read_tensors, tensor_batches
from lightning_plasticity.streams.experiences import ExperienceSamples, Samples


@dataclass(frozen=True)
class Batching:
    """How the samples of an experience become batches.

    Args:
        batch_size: Samples per batch.
        drop_last: Whether an incomplete last batch is left out.
        num_workers: Processes that read samples.
    """

    batch_size: int
    drop_last: bool = False
    num_workers: int = 0

    def count(self, size: int) -> int:
        """Return how many batches ``size`` samples make."""
        return count_batches(size, self.batch_size, self.drop_last)

    def batches(self, samples: Samples, order: Tensor | None) -> Iterator[Any]:
        """Iterate over batches through a ``DataLoader``.

        Args:
            samples: The experience.
            order: Which samples, in which order; None takes all as they stand.

        Returns:
            The collated batches.
        """
        loader: DataLoader[Any] = DataLoader(
            samples.dataset,
            self.batch_size,
            sampler=None if order is None else order.tolist(),
            drop_last=self.drop_last,
            num_workers=self.num_workers,
            collate_fn=LeadingFields(samples.fields),
            generator=torch.Generator(),  # or the loader would draw from the global one
        )
        return iter(loader)


class ExperienceLoader:
    """Iterate over whichever experience is current when the iteration begins.

    Lightning asks for the length once and iterates many times, so the length is that of the moment it was counted; an
    experience of another length is refused rather than cut short.

    Args:
        stream: The experiences.
        place: Returns the place of the current experience.
        order: Returns the order of so many samples, or None for the order of the dataset.
        batching: How samples become batches.
        device: Returns where an experience is preloaded to; None does not preload.
    """

    def __init__(
        self,
        stream: ExperienceSamples,
        place: Callable[[], int],
        order: Callable[[int], Tensor | None],
        batching: Batching,
        device: Callable[[], torch.device] | None = None,
    ) -> None:
        self._stream, self._place, self._order, self._batching, self._device = stream, place, order, batching, device
        self._preloaded: tuple[int, tuple[Tensor, ...]] | None = None
        self._length: int | None = None

    def counted(self) -> ExperienceLoader:
        """Count the batches of the current experience.

        Returns:
            The loader itself, whose length is now that count.
        """
        self._length = self._count(self._stream[self._place()])
        return self

    def __len__(self) -> int:
        if self._length is None:
            self.counted()
        return self._length or 0

    def __iter__(self) -> Iterator[Any]:
        # a generator on purpose: Lightning creates the iterator before a resumed epoch is known
        place = self._place()
        samples = self._stream[place]
        count = self._count(samples)
        check_same_length(place, count, counted=len(self))
        order = self._order(len(samples))
        if self._device is None:
            yield from self._batching.batches(samples, order)
        else:
            tensors = self._tensors(place, samples, self._device())
            yield from tensor_batches(tensors, order, self._batching.batch_size, self._batching.drop_last)

    def _count(self, samples: Samples) -> int:
        order = self._order(len(samples))
        return self._batching.count(len(samples) if order is None else len(order))

    def _tensors(self, place: int, samples: Samples, device: torch.device) -> tuple[Tensor, ...]:
        if self._preloaded is None or self._preloaded[0] != place:
            self._preloaded = None  # two experiences need not fit into memory
            tensors = read_tensors(samples.dataset, fields=samples.fields, num_workers=self._batching.num_workers)
            self._preloaded = place, tuple(tensor.to(device) for tensor in tensors)
        return self._preloaded[1]


def check_same_length(place: int, count: int, counted: int) -> None:
    """Refuse an experience whose number of batches the Trainer does not know.

    Args:
        place: The place of the experience in the stream.
        count: Its number of batches.
        counted: The number that the Trainer counted.

    Raises:
        InvalidArgumentError: If the two differ.
    """
    if count != counted:
        raise InvalidArgumentError(
            f"experience {place} has {count} batches, the Trainer counted {counted}",
            "a Trainer that counts anew in every epoch, since the experiences differ in length",
            "Pass `Trainer(reload_dataloaders_every_n_epochs=1)`",
        )
