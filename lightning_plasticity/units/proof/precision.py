"""Keep a run in one precision, whatever the model, its constants and its inputs were made in."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Promotion(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Promote a float32 batch, weight or constant where it is used; make no cast to less precision.

    Weights may so be stored in single precision and yet be computed with in double precision, one at a time.

    Args:
        dtype: The precision.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype
        self._narrows = False

    @contextmanager
    def narrowing(self) -> Generator[None, None, None]:
        """Make casts to less precision during the block: autograd casts each gradient to the precision of its weight.

        Yields:
            Nothing.
        """
        self._narrows = True
        try:
            yield
        finally:
            self._narrows = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and not self._narrows:
            kwargs = kwargs | {"dtype": self._cast(args[0].dtype, kwargs.get("dtype"))}
        for is_kind in (Tensor.is_floating_point, Tensor.is_complex):
            args, kwargs = _promoted(func, args, kwargs, is_kind)
        return func(*args, **kwargs)

    def _cast(self, dtype: torch.dtype, wanted: torch.dtype | None) -> torch.dtype | None:
        """Return what to cast numbers of ``dtype`` to: to no less precision than that of the run."""
        keeps = wanted is not None and (
            (dtype == self._dtype and wanted.is_floating_point)
            or (dtype == self._dtype.to_complex() and wanted.is_complex)
        )
        return dtype if keeps else wanted


def _promoted(func: Any, args: Any, kwargs: Any, is_kind: Callable[[Tensor], bool]) -> tuple[Any, Any]:
    """Return the arguments with all numbers of a kind (real, complex) in one precision: that written to, or highest."""
    found = {tensor.dtype for tensor in _tensor_arguments(args, kwargs) if is_kind(tensor)}
    if len(found) < 2:
        return args, kwargs
    written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
    targets = [a.dtype for a in written if isinstance(a, Tensor) and is_kind(a)] or list(found)
    dtype = max(targets, key=lambda candidate: candidate.itemsize)

    def promote(leaf: Any) -> Any:
        lower = isinstance(leaf, Tensor) and is_kind(leaf) and leaf.dtype != dtype
        return leaf.to(dtype) if lower and not any(leaf is w for w in written) else leaf

    promoted: tuple[Any, Any] = tree_map(promote, (args, kwargs))
    return promoted


def _tensor_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Return the tensors among the arguments of an operation.

    Yields:
        The tensors; they are never nested deeper than in one list.
    """
    for argument in (*args, *kwargs.values()):
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(item, Tensor):
                yield item
