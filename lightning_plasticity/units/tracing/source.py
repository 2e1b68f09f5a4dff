"""One parameter or buffer of the model, and what the runs have done with it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.shadow import compact

FROZEN = "is frozen (requires_grad=False), so a new unit could not learn"
FROZEN_READER = "reads it and is frozen (requires_grad=False), so what a new unit contributes could not be learnt"
CHANGED = "is changed by the forward pass itself"
UPDATED = "which the model updates in training mode, so what it should be for a new unit is not known"

Orientation: TypeAlias = frozenset[int]
"""The dimensions of a weight that count its columns; it tells the two uses of a tied weight apart."""


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
        factor: The operations that compute a weight from it; empty if it is used itself.
        undivided: Why the rows of that weight do not belong to entries of it; empty if they do.
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
    factor: str = ""
    undivided: str = ""

    @property
    def layer(self) -> str:
        """The dotted name of the layer that it is a weight or bias of; its own, if it is neither by its name."""
        owner = self.path.rpartition(".")[0]
        if self.used_by and self.used_by != owner:  # the parametrization of a layer owns it
            return self.used_by
        return self.path if self.has_own_name else owner or self.path

    @property
    def has_own_name(self) -> bool:
        """Whether it is neither a weight nor a bias by its name."""
        return not ("weight" in self.name or self.name == "bias" or self.name.startswith("bias_"))

    @property
    def is_of_batch_norm(self) -> bool:
        """Whether a batch norm of torch owns it, or a kind of it that computes by itself."""
        return isinstance(self.module, nn.modules.batchnorm._BatchNorm)

    @property
    def called(self) -> str:
        """How a sentence about its layer calls it."""
        return "it" if self.layer == self.path else f"its {self.name}"

    @property
    def place(self) -> str:
        """The name of a group that it writes first: the module that uses a weight computed from it, else its layer."""
        return self.used_by or (self.layer if "weight" in self.name else self.path)

    @property
    def problem(self) -> str:
        """Why its rows and columns may not be given to units; empty if they may."""
        if self.fault:
            return self.fault
        if len(self.orientations) > 1:
            return "is tied: its rows are columns in another place"
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
        self.fault, self.factor, self.undivided = "", "", ""

    def own_type(self, view: Tensor) -> Tensor:
        """Return a view of the tensor as one of its own numbers: of complex ones as pairs, along a last dimension."""
        if view.dtype == self.tensor.dtype:
            return view
        if view.is_complex() and not view.is_conj() and view.element_size() == 2 * self.tensor.element_size():
            return torch.view_as_real(view)
        self.fault = "is read as another type"
        return view

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
        whole = flat.as_strided(t.shape, t.stride(), t.storage_offset())
        return compact(whole).clone()  # so that the memory of the whole is freed


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
