"""Where the weights of units sum over several features, so that what comes before them is none of the units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_plasticity.units.proof.computed_weights import ComputedWeights
from lightning_plasticity.units.proof.unread import Owned, Zeroed, by_storage, storage_of, with_zeros
from lightning_plasticity.units.slot import Slot

_aten = torch.ops.aten


class Summing(ComputedWeights):  # type: ignore[no-untyped-call]
    """Let no derivative pass some rows of weights in a run, where they sum over several features of what they meet.

    These are rows of convolutions, also of such as are computed from the weight in its shape, and of batched products;
    a product of all rows at once needs no care, as each unit reads all features. A unit that is a product, or that
    reads one feature alone (a channel of a depthwise convolution), is made of what comes before as well: that is let
    pass. The weight itself, and what it is computed from, have the derivatives they always have.

    Args:
        parameters: The parameters and buffers of the model.
        rows: The rows.
    """

    def __init__(self, parameters: Iterable[Tensor], rows: Owned) -> None:
        super().__init__(parameters)
        self._rows = by_storage(rows)
        self._stopped: dict[int, list[Zeroed]] = {}
        self._hooks = saved_tensors_hooks(lambda tensor: tensor, self._unpack)

    def __enter__(self) -> Summing:
        self._hooks.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten.convolution.default:
            weight, transposed, groups = args[1], args[6], args[8]
            features = weight.shape[0] // groups if transposed else weight.shape[1]
            self._stop(weight, [row for row in self._rows_of(weight) if features > 1])
        elif func in (_aten.bmm.default, _aten.baddbmm.default):
            for factor, summed in ((args[-2], 2), (args[-1], 1)):
                self._stop(factor, [row for row in self._rows_of(factor) if _sums_along(factor, summed, row[0])])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _rows_of(self, weight: Tensor) -> list[Zeroed]:
        return self._rows.get(storage_of(weight), [])

    def _stop(self, weight: Tensor, rows: list[Zeroed]) -> None:
        if rows:
            self._stopped[storage_of(weight)] = rows

    def _compute(self, weight: Tensor, parts: Sequence[Tensor]) -> None:
        super()._compute(weight, parts)
        rows = [row for part in parts for row in self._rows_of(part) if row[2].shape == weight.shape]
        if rows:
            self._rows[storage_of(weight)] = [(slot, units, weight) for slot, units, _ in rows]

    def _unpack(self, saved: Tensor) -> Tensor:
        return with_zeros(saved, self._stopped.get(storage_of(saved), ()))


def _sums_along(factor: Tensor, dim: int, slot: Slot) -> bool:
    """Return whether a product sums over features of a weight, not over units, along ``dim`` of this view of it."""
    return factor.shape[dim] > 1 and factor.stride(dim) not in {slot.tensor.stride(along) for along in slot.dims}
