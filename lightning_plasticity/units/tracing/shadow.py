"""The shadow of the model's memory: which label stands beside which number.

Labels are kept per *storage* and addressed like the values themselves, by size, stride and offset, so that views and
writes into views need no book-keeping of their own. The label tensors are compact (size 1 where nothing varies).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY

_LARGEST_COMPARED = 2**16

Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int, int]


class Origin(enum.Enum):
    """What a tensor was computed from."""

    DATA = enum.auto()  # an activation: it depends on the example
    CONSTANT = enum.auto()  # a buffer, or made from nothing
    DERIVED = enum.auto()  # parameters and constants only


def geometry(tensor: Tensor) -> Geometry:
    """Return what addresses the numbers of ``tensor`` in its storage."""
    return tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.element_size()


def _last(here: Geometry) -> int:
    """Return the address of the last number."""
    return here[2] + sum((n - 1) * s for n, s in zip(*here[:2], strict=True))


def storage_key(tensor: Tensor) -> int:
    """Return the identity of the memory of ``tensor``."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"a tensor of layout {tensor.layout}, whose memory labels cannot follow",
            "dense tensors wherever units may go",
            "Keep the tensor dense while units are looked for",
        ) from error


def restrict(labels: Tensor) -> Tensor:
    """Return ``labels`` with every dimension of stride 0, along which nothing can vary, cut to size 1."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """Return ``labels`` cut to size 1 along every dimension in which they do not vary."""
    labels = restrict(labels)
    for dim in range(labels.ndim):
        if labels.shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            if torch.equal(labels, first.expand_as(labels)):
                labels = first
    return labels


def regroup(labels: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Return compact labels of a tensor of shape ``old`` after it was reshaped to ``new``.

    Dimensions that are merged or split together are treated together; where the labels do not vary they stay small.

    Example:
        >>> channels = torch.arange(2).reshape(1, 2, 1, 1)
        >>> regroup(channels, (8, 2, 3, 3), (8, 18)).shape
        torch.Size([1, 18])
    """
    sizes: list[int] = []
    full: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        have = old[i] if i < len(old) else 1
        want = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while have != want:
            if have < want:
                have, i = have * old[i], i + 1
            else:
                want, j = want * new[j], j + 1
        varies = any(n > 1 for n in labels.shape[start_i:i])
        full += old[start_i:i] if varies else [1] * (i - start_i)
        sizes += new[start_j:j] if varies else [1] * (j - start_j)
    return labels.expand(full).reshape(sizes)


@dataclass
class _Store:
    reference: StorageWeakRef  # keeps the identity, not the memory
    base: Geometry
    origin: Origin
    labels: Tensor | None = None
    views: dict[Geometry, Tensor | None] = field(default_factory=dict)


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_freed(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


class Shadow:
    """Labels and origin of every tensor that a run of the model touches.

    Example:
        >>> shadow, x = Shadow(), torch.zeros(4, 3)
        >>> shadow.put(x, torch.tensor([[7, 8, 9]]))
        >>> shadow.labels(x.t()[1:])
        tensor([[8],
                [9]])
    """

    def __init__(self, on_reinterpret: Callable[[Tensor], None] = lambda labels: None) -> None:
        self._stores: dict[int, _Store] = {}
        self._by_value: dict[Hashable, Tensor] = {}
        self._is_shared: set[int] = set()  # the identities of these
        self._on_reinterpret = on_reinterpret  # told the labels of memory that is read as another dtype

    def _store(self, tensor: Tensor, key: int, here: Geometry, origin: Origin) -> _Store:
        store = self._stores.get(key)
        if store is None:
            numel = tensor.untyped_storage().nbytes() // tensor.element_size()
            whole = tensor.numel() == numel and (tensor.is_contiguous() or _last(here) == numel - 1)
            base = here if whole else ((numel,), (1,), 0, here[3])
            store = self._stores[key] = _Store(_reference(tensor), base, origin)
        return store

    def origin(self, tensor: Tensor) -> Origin:
        """Return what ``tensor`` was computed from; memory never seen before holds data."""
        return self.look(tensor, storage_key(tensor))[0]

    def labels(self, tensor: Tensor) -> Tensor | None:
        """Return the compact labels of ``tensor``; None for a constant, and for data without any unit."""
        return self.look(tensor, storage_key(tensor))[1]

    def look(self, tensor: Tensor, key: int) -> tuple[Origin, Tensor | None]:
        """Return origin and labels of ``tensor``; ``key`` is that of its storage."""
        store = self._stores.get(key)
        if store is None:
            return Origin.DATA, None
        if store.labels is None:
            return store.origin, None
        here = geometry(tensor)
        if here == store.base:
            return store.origin, store.labels
        if here not in store.views and here[3] != store.base[3]:
            self._on_reinterpret(store.labels)
            return store.origin, None
        if here not in store.views:
            found = None if tensor.numel() == 0 else compact(self._flat(store, tensor).as_strided(*here[:3]))
            store.views[here] = self._shared(found)
        return store.origin, store.views[here]

    def mark(self, tensor: Tensor, origin: Origin) -> None:
        """Note what ``tensor`` was computed from; memory of which a part holds data holds data."""
        key = storage_key(tensor)
        store = self._stores.get(key)
        if store is None:
            is_part = tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
            if origin is not Origin.DATA and not is_part:  # the rest of memory never seen before is data
                self._store(tensor, key, geometry(tensor), origin)
        elif origin is Origin.DATA is not store.origin:
            if store.labels is None:  # the rest remains constant
                store.labels = torch.zeros([1] * len(store.base[0]), dtype=torch.long)
            store.origin = origin
        elif store.origin is not Origin.DATA or tensor.numel() == math.prod(store.base[0]):
            store.origin = origin

    def put(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Set the labels of ``tensor``, compact or broadcastable; None for nobody."""
        key = storage_key(tensor)
        if tensor.numel() == 0 or (labels is None and key not in self._stores):
            return
        here = geometry(tensor)
        store = self._store(tensor, key, here, Origin.DATA)
        if here == store.base:
            store.labels = self._shared(labels)
        elif labels is not None or store.labels is not None:
            flat = self._flat(store, tensor)
            flat.as_strided(*here[:3]).copy_(torch.zeros(1, dtype=torch.long) if labels is None else labels)
            store.labels = self._shared(compact(flat.as_strided(*store.base[:3])))
        store.views.clear()

    def remember_view(self, view: Tensor, labels: Tensor | None) -> None:
        """Cache the labels of a view, which whoever made the view could tell cheaply."""
        store, here = self._stores.get(storage_key(view)), geometry(view)
        if store is not None and view.numel() and here != store.base:
            store.views[here] = self._shared(labels)

    def _shared(self, labels: Tensor | None) -> Tensor | None:
        """Return the one tensor that stands for all ``labels`` of these values, so that equal ones are identical."""
        if labels is None or id(labels) in self._is_shared or labels.numel() > _LARGEST_COMPARED:
            return labels
        one = self._by_value.setdefault((labels.shape, labels.numpy().tobytes()), labels)
        self._is_shared.add(id(one))
        return one

    @staticmethod
    def _flat(store: _Store, tensor: Tensor) -> Tensor:
        blank = FOREIGN if store.origin is Origin.DATA else NOBODY
        flat = torch.full((tensor.untyped_storage().nbytes() // tensor.element_size(),), blank)
        if store.labels is not None:
            shape, stride, offset, _ = store.base
            flat.as_strided(shape, stride, offset).copy_(store.labels)
        return flat

    def sweep(self) -> None:
        """Forget memory that has been freed."""
        self._stores = {key: store for key, store in self._stores.items() if not _is_freed(store.reference)}
