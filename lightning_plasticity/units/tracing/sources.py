"""The tensors that a model owns: where each lies in memory, and the labels of its rows and entries.

A *source* is a parameter or buffer under its name. Whatever view of it an operation reads (a transpose, a chunk, a
reshape), the view is recognised by its address, and labels are handed out by address too: the same row of the same
weight has the same label wherever and however often it is used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.labels import Labels, foreign
from lightning_plasticity.units.tracing.shadow import Geometry, compact, geometry, restrict, storage_key

_LARGEST_ELEMENTWISE = 2**24  # entries, each of which takes some 40 bytes

FROZEN = "is frozen (requires_grad=False), so a new unit could not learn"
FROZEN_READER = "reads it and is frozen (requires_grad=False), so what a new unit contributes could not be learnt"

Orientation: TypeAlias = frozenset[int]


@dataclass(eq=False)
class Source:
    """A parameter or buffer of the model.

    Args:
        path: Dotted name in the model, wrappers removed.
        module: Its owner.
        name: Its name in the owner.
        tensor: The tensor.
        is_parameter: Whether it is a parameter.
        trainable: Whether it requires gradients.
        kinds: What element-wise operations did with it.
        orientations: In which orientations it was contracted: along which of its dimensions.
        soft: The first label of its entries; None while it was not used element-wise.
        elementwise: Whether it was used element-wise.
        calls: How often its rows were used in each run; a run that recalls what an earlier one concluded counts less.
        recurrent: Whether its columns read what its rows wrote in an earlier use.
        shown: Whether its columns ever met anything but zeros, such as those of a first hidden state.
        fault: Why none of its entries may be given to a unit; empty if they may.
        used_by: The module that uses a weight computed from it; empty if it is used itself.
        undivided: Why the rows of that weight do not belong to entries of it; empty if they do.
        changed: By what it is changed before some of its uses, while it is used as it is in others.
    """

    path: str
    module: nn.Module
    name: str
    tensor: Tensor
    is_parameter: bool
    trainable: bool
    kinds: set[SlotKind] = field(default_factory=set)
    orientations: set[Orientation] = field(default_factory=set)
    soft: int | None = None
    elementwise: bool = False
    calls: Counter[int] = field(default_factory=Counter)
    recurrent: bool = False
    shown: bool = False
    fault: str = ""
    used_by: str = ""
    undivided: str = ""
    changed: str = ""

    @property
    def layer(self) -> str:
        """The dotted name of the layer that uses it, else of its owner; its own if the model owns it directly."""
        return self.used_by or self.path.rpartition(".")[0] or self.path

    @property
    def place(self) -> str:
        """The name of a group that it writes first: the layer of a weight; its own, if it has a name of its own."""
        return self.layer if self.used_by or "weight" in self.name else self.path

    @property
    def problem(self) -> str:
        """Why its rows and columns may not be given to units; empty if they may."""
        if self.fault:
            return self.fault
        if len(self.orientations) > 1:
            return "is used in two orientations (tied weights)"
        if self.elementwise and self.orientations:
            return "is also used outside of its layer (a tied or regularised weight)"
        if self.orientations and not self.shown:
            return "met only zeros on the example, so what it reads is not known"
        return "" if self.trainable else FROZEN

    @property
    def is_repeated(self) -> bool:
        """Whether a run used its rows several times."""
        return max(self.calls.values(), default=0) > 1

    @property
    def rows(self) -> int:
        """The number of rows in the orientation in which it is used."""
        along = frozenset().union(*self.orientations)
        return math.prod(n for d, n in enumerate(self.tensor.shape) if d not in along)

    def restart(self) -> None:
        """Forget what the last runs did with the tensor; keep its labels."""
        self.kinds.clear()
        self.orientations.clear()
        self.calls.clear()
        self.elementwise, self.recurrent, self.shown = False, False, False
        self.fault, self.undivided, self.changed = "", "", ""

    def own_shape(self, view: Tensor, labels: Tensor, missing: int = 0) -> Tensor:
        """Translate compact labels of a view of the tensor to compact labels of the tensor itself.

        Args:
            view: A view of the tensor.
            labels: Compact labels of the view.
            missing: What entries get that the view does not contain.

        Returns:
            Compact labels in the dimensions of the tensor.
        """
        t = self.tensor
        dims = _matching_dims(view, t)
        if dims is not None:
            shape = [labels.shape[d] if d is not None else 1 for d in dims]
            named = [d for d in dims if d is not None]  # the others have size 1
            return labels.permute(*named, *(d for d in range(labels.ndim) if d not in named)).reshape(shape)
        flat = torch.full((t.untyped_storage().nbytes() // t.element_size(),), missing, dtype=torch.long)
        flat.as_strided(view.shape, view.stride(), view.storage_offset()).copy_(labels)
        return compact(flat.as_strided(t.shape, t.stride(), t.storage_offset()))


def _matching_dims(view: Tensor, tensor: Tensor) -> list[int | None] | None:
    """Return the dimension of ``view`` for each dimension of ``tensor``, or None if they do not correspond.

    None in the list stands for a dimension of size 1.
    """
    if view.storage_offset() != tensor.storage_offset():
        return None
    free = {d: (n, s) for d, (n, s) in enumerate(zip(view.shape, view.stride(), strict=True)) if n > 1 and s != 0}
    dims: list[int | None] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            dims.append(None)
            continue
        match = [d for d, there in free.items() if there == (size, stride)]
        if not match:
            return None
        dims.append(match[0])
        del free[match[0]]
    return None if free else dims


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
        self._at: dict[int, list[Source]] = {}
        self._rows: dict[tuple[object, Orientation], tuple[Tensor, Tensor]] = {}
        self._known: dict[object, Tensor] = {}
        self._entries: dict[tuple[Source, Geometry], Tensor] = {}
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
            flat = torch.arange(source.soft, source.soft + span)
            self._entries[here] = self.labels.alive(restrict(flat.as_strided(*here[1][:3])))
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


def orientation(source: Source, view: Tensor, dims: list[int]) -> Orientation:
    """Return along which dimensions of ``source`` the dimensions ``dims`` of a view of it run."""
    t = source.tensor
    found: set[int] = set()
    for size, step in ((view.shape[d], view.stride(d)) for d in dims):
        if size > 1:
            found |= {
                d
                for d, (n, s) in enumerate(zip(t.shape, t.stride(), strict=True))
                if n > 1 and s <= step * (size - 1) and s * n > step
            }
    return frozenset(found)


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
