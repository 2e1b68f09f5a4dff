"""The tensors that a model owns: where each lies in memory, and the labels of its rows and entries.

A *source* is a parameter or buffer under its name. Whatever view of it an operation reads (a transpose, a chunk, a
reshape), the view is recognised by its address, and labels are handed out by address too: the same row of the same
weight has the same label wherever and however often it is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_plasticity.units.tracing.labels import Labels, foreign
from lightning_plasticity.units.tracing.shadow import Geometry, geometry, restrict, storage_key
from lightning_plasticity.units.tracing.source import Orientation, Source

_LARGEST_ELEMENTWISE = 2**24  # entries, each of which takes some 40 bytes


def expected_labels(modules: Iterable[nn.Module]) -> int:
    """Return about how many labels a model needs: for the rows of weights, and for the entries of other tensors."""
    held = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
    rows = (t.shape[0] if t.ndim > 1 and t.shape[1] > 1 else t.numel() for t in held)  # or the kernel of one channel
    return sum(rows) * 5 // 4  # some are made from others


class Sources:
    """All parameters and buffers of a model, found by memory.

    Args:
        model: The model.
        labels: Hands out the labels.
        names: The dotted name to show of every module, in the order of the model.
    """

    def __init__(self, model: nn.Module, labels: Labels, names: dict[nn.Module, str]) -> None:
        self.labels = labels
        self.all: list[Source] = []
        self._at: dict[int, list[Source]] = {}  # by storage
        self._rows: dict[tuple[object, Orientation], tuple[Tensor, Tensor]] = {}  # by owner: addresses and labels
        self._known: dict[object, Tensor] = {}  # the labels of rows that were asked for before
        self._entries: dict[tuple[Source, Geometry], Tensor] = {}  # the labels of entries, by view
        seen: set[int] = set()
        for module, path in names.items():
            for own, is_parameter in ((module._parameters, True), (module._buffers, False)):
                for name, tensor in own.items():
                    if tensor is not None and id(tensor) not in seen:
                        seen.add(id(tensor))
                        own_path = f"{path}.{name}" if path else name
                        trainable = tensor.requires_grad
                        source = Source(own_path, module, name, tensor.detach(), is_parameter, trainable)
                        self.all.append(source)
                        self._at.setdefault(storage_key(tensor), []).append(source)

    def restart(self) -> None:
        """Forget what the last runs did with the sources; keep their labels."""
        self._entries.clear()
        for source in self.all:
            source.restart()

    def find(self, tensor: Tensor, key: int | None = None) -> Source | None:
        """Return the source that ``tensor`` is, or is a view of; ``key`` is that of its storage, if it is known."""
        here = self._at.get(storage_key(tensor) if key is None else key)
        if here is None:
            return None
        if len(here) == 1:
            return here[0]
        offset = int(tensor.storage_offset())
        before = [s for s in here if s.tensor.storage_offset() <= offset]
        inside = [s for s in before if _holds(s.tensor, offset)] or before
        return max(inside, key=lambda s: s.tensor.storage_offset(), default=None)

    def soft_labels(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of the entries of ``tensor``, a view of a source; compact, None for nobody."""
        source = self.find(tensor)
        if source is None:
            return None
        if source.tensor.numel() > _LARGEST_ELEMENTWISE:
            source.fault = f"is used element by element and too large for it ({source.tensor.numel()} entries)"
            return foreign(tensor.ndim)
        span = source.tensor.untyped_storage().nbytes() // source.tensor.element_size()
        if source.soft is None:
            source.soft = int(self.labels.fresh(span, soft=True)[0]) if span else None
            if source.soft is None:
                return None
        here = source, geometry(tensor)
        if here not in self._entries:
            own = source.own_type(tensor)
            found = restrict(torch.arange(source.soft, source.soft + span).as_strided(*geometry(own)[:3]))
            if own.ndim > tensor.ndim:  # both parts of a complex number belong to one unit
                self.labels.unify(found[..., 0].reshape(-1), found[..., 1].reshape(-1))
                found = found[..., 0]
            self._entries[here] = self.labels.alive(found)
        return self._entries[here]

    def entries(self, source: Source) -> Tensor:
        """Return the soft labels of all entries of ``source``, in its shape."""
        found = self.soft_labels(source.tensor)
        assert found is not None  # noqa: S101 - asked only of sources that were used element-wise
        return found.expand(source.tensor.shape)

    def row_labels(self, owner: object, view: Tensor, rows: list[int], along: Orientation) -> Tensor:
        """Return the labels of the rows of a weight, compact: size 1 along all dimensions of ``view`` but ``rows``.

        Args:
            owner: What the rows belong to: a source, or a name for a computed weight.
            view: The weight as it is used.
            rows: The dimensions of ``view`` that count its rows.
            along: The orientation; tells rows from columns of the same tensor.
        """
        lying = tuple((d, view.shape[d], view.stride(d)) for d in rows)
        exact = owner, along, view.storage_offset(), lying, view.ndim
        if exact not in self._known:
            starts = _starts(view, rows)
            have, ids = self._extended((owner, along), starts.reshape(-1))
            whole = torch.equal(have, starts.reshape(-1))  # as a rule
            self._known[exact] = ids.reshape(starts.shape) if whole else ids[torch.searchsorted(have, starts)]
        return self._known[exact]

    def _extended(self, whose: tuple[object, Orientation], starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the addresses of all known rows, rising, with their labels; ``starts`` are among them."""
        if whose not in self._rows and bool((starts[1:] > starts[:-1]).all()):
            self._rows[whose] = starts, self.labels.fresh(len(starts))
            return self._rows[whose]
        missing = starts.unique()  # type: ignore[no-untyped-call]
        have, ids = self._rows.get(whose, (missing[:0], missing[:0]))
        missing = missing[~torch.isin(missing, have)] if len(have) else missing
        if len(missing):
            have, order = torch.cat([have, missing]).sort()
            ids = torch.cat([ids, self.labels.fresh(len(missing))])[order]
            self._rows[whose] = have, ids
        return have, ids


def _holds(tensor: Tensor, address: int) -> bool:
    """Return whether a number of ``tensor`` lies at ``address``; others may lie in between, such as a second half."""
    rest = address - int(tensor.storage_offset())
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True), reverse=True):
        if stride:
            rest -= min(rest // stride, size - 1) * stride
    return rest == 0


def _starts(tensor: Tensor, dims: list[int]) -> Tensor:
    """Return the addresses of the rows of ``tensor``, in the compact shape that has size 1 except along ``dims``."""
    address = torch.tensor(tensor.storage_offset())
    for dim in (d for d in dims if tensor.shape[d] != 1):
        shape = [-1 if d == dim else 1 for d in range(tensor.ndim)]
        address = address + (torch.arange(tensor.shape[dim]) * tensor.stride(dim)).reshape(shape)
    return address.reshape([tensor.shape[d] if d in dims else 1 for d in range(tensor.ndim)])
