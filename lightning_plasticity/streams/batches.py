"""Batches of one experience: through a ``DataLoader``, or as slices of tensors that were read once.

Letters: ``N`` samples of an experience.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from lightning_plasticity.streams.lazy import RelabelledDataset

_READ_BATCH = 1024


@dataclass(frozen=True)
class LeadingFields:
    """Collate samples and keep the first entries of the batch; a class, since worker processes must pickle it.

    Args:
        fields: How many entries are kept; None keeps all.
    """

    fields: int | None

    def __call__(self, samples: list[Any]) -> Any:
        """Return the collated batch of ``samples``."""
        batch = default_collate(samples)
        return batch if self.fields is None else tuple(batch[: self.fields])


def sample_order(size: int, generator: torch.Generator | None, rank: int = 0, world_size: int = 1) -> Tensor:
    """Return the samples that one process sees in one epoch, in order.

    Args:
        size: Number of samples ``N``.
        generator: Shuffles, equally on every process; None keeps the order of the dataset.
        rank: The process, from 0.
        world_size: The number of processes. All get equally many samples: the first ones are repeated if need be.

    Returns:
        Indices in ``[0, N)``, ``[ceil(N / world_size)]``.

    Example:
        >>> [sample_order(5, None, rank, world_size=2).tolist() for rank in range(2)]
        [[0, 2, 4], [1, 3, 0]]
    """
    order = torch.arange(size) if generator is None else torch.randperm(size, generator=generator)
    if world_size == 1:
        return order
    share = -(-size // world_size)
    return order[torch.arange(rank, share * world_size, world_size) % size]


def count_batches(size: int, batch_size: int, drop_last: bool) -> int:
    """Return how many batches ``size`` samples make."""
    return size // batch_size if drop_last else -(-size // batch_size)


def read_tensors(dataset: Dataset[Any], *, fields: int | None = None, num_workers: int = 0) -> tuple[Tensor, ...]:
    """Read a whole dataset into tensors.

    A :class:`~torch.utils.data.TensorDataset` hands over its tensors without a copy, and experiences made of one are
    read at once; any other dataset is read sample by sample, with its transforms applied once.

    Args:
        dataset: The dataset; each sample is a tuple of tensors or numbers.
        fields: How many leading entries of each sample are read; None reads all.
        num_workers: Processes that read.

    Returns:
        One tensor per entry of a sample, each ``[N, ...]``.

    Example:
        >>> x, y = read_tensors([(torch.zeros(2), 0), (torch.ones(2), 5)])
        >>> x.shape, y
        (torch.Size([2, 2]), tensor([0, 5]))
    """
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[:fields]
    if isinstance(dataset, RelabelledDataset) and (tensors := dataset.at_once()) is not None:
        return tensors[:fields]
    loader = DataLoader(
        dataset,
        batch_size=_READ_BATCH,
        num_workers=num_workers,
        collate_fn=LeadingFields(fields),
        generator=torch.Generator(),  # or the loader would draw from the global one
    )
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def tensor_batches(
    tensors: tuple[Tensor, ...], order: Tensor | None, batch_size: int, drop_last: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over batches of tensors, at the cost of one slice per batch.

    Args:
        tensors: What :func:`read_tensors` returned, each ``[N, ...]``.
        order: Which samples, in which order; None takes all as they stand, without copying them.
        batch_size: Samples per batch.
        drop_last: Whether an incomplete last batch is left out.

    Returns:
        The batches: tuples with one tensor per entry of a sample.

    Example:
        >>> data = torch.arange(6).view(3, 2), torch.tensor([0, 1, 0])
        >>> [y.tolist() for x, y in tensor_batches(data, torch.tensor([2, 1, 0]), batch_size=2)]
        [[0, 1], [0]]
    """
    if order is not None:
        tensors = tuple(tensor[order.to(tensor.device)] for tensor in tensors)
    size = count_batches(len(tensors[0]), batch_size, drop_last) * batch_size
    return zip(*(torch.split(tensor[:size], batch_size) for tensor in tensors), strict=True)
