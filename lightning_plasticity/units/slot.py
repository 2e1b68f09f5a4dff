"""Where the numbers of a unit live in one tensor.

Letters: ``U`` units of the group, ``R`` units asked for, ``K`` features per unit (1, except after a flatten, where a
channel owns one column per position), ``E`` the remaining dimensions of the tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_plasticity.functional.utility import absolute_sum
from lightning_plasticity.units.binding import Bound
from lightning_plasticity.units.writing import write

SlotKind: TypeAlias = Literal["weight", "bias", "scale", "shift", "mean", "variance", "carried"]
"""What the model does with the entries of a slot, seen from what it computed with the tensor, not from its name.

``"weight"`` is contracted with an activation (rows write a unit, columns read it); ``"bias"`` is added; ``"scale"``,
``"shift"``, ``"mean"`` and ``"variance"`` are what a normalisation multiplies by, adds, subtracts and divides by;
``"carried"`` is anything else that belongs to a unit on its way: a depthwise kernel, a PReLU slope, a layer scale.
"""

_NEUTRAL: dict[str, float] = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}


@dataclass(frozen=True, eq=False)
class Slot(Bound):
    """The entries of one parameter or buffer that belong to the units of a group.

    A unit's entries are found by choosing one or more dimensions (``dims``) and looking the unit up in one table per
    chosen dimension (``index``). One dimension is the common case: rows of a weight, entries of a bias, columns of the
    next weight. A grouped convolution, in which a channel is read by a block of rows at one column, needs two.

    Args:
        module: Module that owns the tensor.
        name: Attribute of the tensor in ``module``.
        path: Dotted name of the tensor in the model; stable across runs, used in messages and checkpoints.
        dims: Dimensions in which the units are addressed.
        index: One table ``[U, K]`` of positions per entry of ``dims``.
        kind: What the model does with the entries, see :data:`SlotKind`; what to reset them to follows from it.

    Attributes:
        found_in: The shape of the tensor when the slot was made.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> columns = Slot(layer, "weight", "layer.weight", dims=(1,), index=(torch.arange(3)[:, None],))
        >>> columns.assign(torch.tensor([0, 2]), 0.0)
        >>> columns.magnitude() > 0
        tensor([False,  True, False])
    """

    _held: ClassVar[str] = "module"

    module: nn.Module = field(repr=False)
    name: str
    path: str
    dims: tuple[int, ...]
    index: tuple[Tensor, ...] = field(repr=False)
    kind: SlotKind = "weight"
    found_in: tuple[int, ...] = field(init=False, repr=False)
    _moved: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Note the shape of the tensor."""
        object.__setattr__(self, "found_in", tuple(self.tensor.shape))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_moved": {}}

    def fits(self, tensor: Tensor) -> bool:
        """Return whether the units can lie in ``tensor`` as they did: it may differ where they are not counted."""
        return tensor.ndim == len(self.found_in) and all(tensor.shape[dim] == self.found_in[dim] for dim in self.dims)

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer itself, whatever the module holds at this moment."""
        tensor = self.module._parameters.get(self.name)  # the module's own lookup is slow
        if tensor is None:
            tensor = getattr(self.module, self.name)
        assert isinstance(tensor, Tensor)  # ruff: ignore[assert] - a slot is only ever built on a tensor
        return tensor

    @property
    def is_there(self) -> bool:
        """Whether the module still has a parameter or buffer of this name, rather than something computed from one."""
        return (self.module._parameters | self.module._buffers).get(self.name) is not None

    @property
    def neutral(self) -> float | None:
        """The value at which the entries do nothing (0 for a bias, 1 for a scale); None for weights and the carried."""
        return _NEUTRAL.get(self.kind)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the units lie in one dimension in order, so that they need no table."""
        flat = self.index[0].flatten().cpu()
        return len(self.dims) == 1 and torch.equal(flat, torch.arange(flat.numel(), device="cpu"))

    @cached_property
    def is_disjoint(self) -> bool:
        """Whether no entry belongs to two units, or twice to one; it does not in any slot that is right."""
        if self._in_order:
            return True
        shape, places = self.tensor.shape, torch.zeros_like(self.index[0])
        for dim, table in zip(self.dims, self.index, strict=True):
            places = places * shape[dim] + table % shape[dim]
        return bool(places.unique().numel() == places.numel())  # type: ignore[no-untyped-call]

    @property
    def size(self) -> int:
        """The number of units ``U``."""
        return self.index[0].shape[0]

    @property
    def features(self) -> int:
        """The number of features per unit ``K``."""
        return self.index[0].shape[1]

    @cached_property
    def total_features(self) -> int:
        """The number of features of all units, ``U * K``."""
        return self.index[0].numel()

    @property
    def whole_dim(self) -> int | None:
        """The dimension of the tensor that the units own from end to end, in order; None if they lie otherwise."""
        whole = self._in_order and self.tensor.shape[self.dims[0]] == self.total_features
        return self.dims[0] % self.tensor.ndim if whole else None

    def view(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` (the slot's own, or one of its shape) viewed with the addressed dimensions first."""
        tensor = tensor.detach()
        return tensor if self.dims == (0,) else tensor.movedim(self.dims, tuple(range(len(self.dims))))

    def tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the index tables on ``device``, each ``[U, K]``; moved once per device."""
        if device not in self._moved:
            self._moved[device] = tuple(table.to(device) for table in self.index)
        return self._moved[device]

    def at(self, units: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        """Return the index that addresses ``units`` in :meth:`view`, one ``[R, K]`` tensor per addressed dimension."""
        units = units.to(device)
        if self._in_order and self.features == 1:
            return (units[:, None],)
        return tuple(table[units] for table in self.tables(device))

    def positions(self, units: Tensor) -> Tensor:
        """Return where the entries of ``units`` lie in the flattened tensor, ``[R * K * E]``, int64 on the host."""
        shape = tuple(self.tensor.shape)
        dims = tuple(dim % len(shape) for dim in self.dims)
        strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
        units = units.cpu()
        positions = torch.zeros(len(units), self.features, dtype=torch.int64, device="cpu")
        for dim, table in zip(dims, self.index, strict=True):
            positions += table.cpu()[units] * strides[dim]
        for dim in range(len(shape)):
            if dim not in dims:
                positions = positions[..., None] + torch.arange(shape[dim], device="cpu") * strides[dim]
        return positions.flatten()

    def shape_of(self, units: Tensor) -> tuple[int, ...]:
        """Return the shape ``(R, K, *E)`` of the entries of ``units``."""
        return (len(units), self.features, *self.view(self.tensor).shape[len(self.dims) :])

    def gather(self, units: Tensor) -> Tensor:
        """Return a copy of the entries of ``units``, ``[R, K, *E]``."""
        tensor = self.tensor
        return self.view(tensor)[self.at(units, tensor.device)]

    def assign(self, units: Tensor, values: Tensor | float, *, tensor: Tensor | None = None) -> None:
        """Write ``values`` to the entries of ``units``.

        Args:
            units: Indices of units, ``[R]``, on any device.
            values: A number, or a tensor that broadcasts to ``[R, K, *E]``.
            tensor: Write into this tensor of the same shape instead, such as the optimizer's memory of the parameter.
        """
        target = self.tensor if tensor is None else tensor
        write(self.view(target), self.at(units, target.device), values)

    def absolute_sums(self, out: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
        """Return the sum of the absolute entries of every feature, ``[U * K]``, at least in float32.

        Args:
            out: Write into this tensor instead of a new one.
            scratch: Memory to work in; see :func:`~lightning_plasticity.functional.utility.absolute_sum`.

        Returns:
            ``out``, or the new tensor.
        """
        tensor = self.tensor
        if self._in_order and tensor.shape[self.dims[0]] == self.total_features:
            return absolute_sum(tensor.detach(), self.dims[0], out, scratch)
        tensor = self.view(tensor)
        rest = tuple(range(len(self.dims), tensor.ndim))
        sums = (tensor.abs().sum(rest) if rest else tensor.abs())[self.tables(tensor.device)].flatten()
        return sums if out is None else out.copy_(sums)

    def feature_magnitude(self) -> Tensor:
        """Return the mean absolute entry of every feature, ``[U, K]``."""
        return self.absolute_sums().view(self.index[0].shape) / self.entries_per_feature

    def magnitude(self) -> Tensor:
        """Return the mean absolute entry of every unit, ``[U]``."""
        return self.feature_magnitude().mean(1)

    @property
    def entries_per_feature(self) -> int:
        """The number of entries that one feature of a unit owns in this tensor; at least 1."""
        return max(1, math.prod(n for dim, n in enumerate(self.tensor.shape) if dim not in self.dims))

    @property
    def entries_per_unit(self) -> int:
        """The number of entries that one unit owns in this tensor."""
        return self.features * self.entries_per_feature
