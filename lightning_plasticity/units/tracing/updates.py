"""Buffers that the model updates from its own activations, such as the running statistics of a norm written by hand.

Where such a buffer has an entry per unit, a new unit would go on with the statistics of the old one. Those of torch's
own norms are slots, which start anew; what another buffer should start from is not known, so its units are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_plasticity.units.tracing.labels import FOREIGN
from lightning_plasticity.units.tracing.shadow import storage_key
from lightning_plasticity.units.tracing.source import Source


class Updates:
    """Which buffers are updated, and which units they met, element by element, in evaluation mode.

    That mode alone counts: in training mode, an update reads the buffer that it writes, which does no harm by itself.

    Args:
        sources: The parameters and buffers of the model.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.is_reading = False
        self._buffers = [s for s in sources if not s.is_parameter and s.tensor.is_floating_point()]
        self._behind = {storage_key(s.tensor): frozenset([s]) for s in self._buffers if s.tensor.numel() > 1}
        self._held: list[StorageWeakRef] = []  # keep identities from being used again
        self._updated = {s for s in self._buffers if s.is_of_batch_norm}  # these stay in evaluation mode
        self._met: list[tuple[frozenset[Source], Tensor]] = []

    def derive(self, operands: Iterable[Tensor], outs: Iterable[Tensor]) -> None:
        """Note that ``outs`` were computed from ``operands`` element by element, without the example."""
        if self.is_reading and (behind := self._all_behind(operands)):
            for out in outs:
                self._behind[storage_key(out)] = behind
                self._held.append(StorageWeakRef(out.untyped_storage()))  # type: ignore[no-untyped-call]

    def meet(self, operands: Iterable[Tensor], labels: Tensor | None) -> None:
        """Note that ``operands`` were combined element by element, and ``labels`` are those of the result."""
        if self.is_reading and self._behind and labels is not None:
            own = [t for t in operands if _varies(t, labels)]
            if behind := self._all_behind(own):
                self._met.append((behind, labels))

    def _all_behind(self, operands: Iterable[Tensor]) -> frozenset[Source]:
        found = [self._behind.get(storage_key(t)) for t in operands if t.numel() > 1]
        return frozenset().union(*filter(None, found))

    def update(self, source: Source) -> None:
        """Note that a buffer is written from activations; whatever reads it from now on reads these."""
        self._updated.add(source)
        self._behind.pop(storage_key(source.tensor), None)

    def replaced(self) -> Iterator[tuple[Source, Tensor]]:
        """Return the buffers that the model has bound to other tensors, with these."""
        for source in self._buffers:
            held = source.module._buffers.get(source.name)
            if held is not None and storage_key(held) != storage_key(source.tensor):
                yield source, held

    def owners(self) -> Iterator[tuple[Source, Tensor]]:
        """Return the buffers that are updated and meet units, and are no slots of them, each with their labels."""
        for sources, labels in self._met:
            for source in sources & self._updated:
                if not source.elementwise:
                    yield source, labels[labels > FOREIGN]


def _varies(tensor: Tensor, labels: Tensor) -> bool:
    """Return whether ``tensor`` may have a number of its own for each of several labels."""
    return any(min(sizes) > 1 for sizes in zip(reversed(tensor.shape), reversed(labels.shape), strict=False))
