"""Hold the statistics of norm layers constant, so that a unit cannot reach its neighbours through them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class FrozenStatistics(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the statistics of norms in the first run and use the recorded ones in all later runs.

    A statistic is what a fused layer, group, RMS or weight norm computes from its input, and for norms written by hand
    the result of ``rsqrt``, ``var``, ``std``, a vector norm, or of a ``mean`` that keeps the one dimension it reduces.
    Batch statistics belong to single channels; they are not touched.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorded: list[Any] = []
        self._position: int | None = None

    def replay(self) -> FrozenStatistics:
        """Return itself, set to use the recorded statistics from the first one on in the next run."""
        self._position = 0
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not has_statistics(func, args):
            if is_composite(func):
                with self:
                    return func.decompose(*args, **kwargs)
            return func(*args, **kwargs)
        if self._position is None:
            result = func(*args, **kwargs)
            self._recorded.append(statistics_of(func, result))
            return result
        self._position += 1
        return with_statistics(func, args, kwargs, self._recorded[self._position - 1])


@lru_cache(maxsize=4096)
def is_composite(func: Any) -> bool:
    """Return whether torch writes an operation as others, as which a mode sees it, except in inference mode."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def has_statistics(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether an operation computes statistics, alone or besides what it normalises with them."""
    if func is aten.mean.dim:
        return len(args) > 2 and args[2] is True and args[1] is not None and len(args[1]) == 1
    return func in _FUSED or func in _STATISTICS


def statistics_of(func: Any, result: Any) -> Any:
    """Return a copy of the statistics among the results of an operation; whoever has the result may write into it."""
    return _copy(result[1:] if func in _FUSED else result)


def with_statistics(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], statistics: Any) -> Any:
    """Return what an operation returns if it uses these statistics in place of its own."""
    statistics = _copy(statistics)
    return (_FUSED[func](statistics, *args, **kwargs), *statistics) if func in _FUSED else statistics


def _copy(statistics: Any) -> Any:
    return statistics.clone() if isinstance(statistics, Tensor) else tuple(s.clone() for s in statistics)


def _layer_norm(
    statistics: tuple[Tensor, Tensor], x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    mean, inverse = statistics
    return _affine((x - mean) * inverse, weight, bias)


def _rms_norm(statistics: tuple[Tensor], x: Tensor, shape: Any, weight: Tensor | None, eps: float | None) -> Tensor:
    return _affine(x * statistics[0], weight, None)


def _group_norm(
    statistics: tuple[Tensor, Tensor],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> Tensor:
    mean, inverse = (statistic.reshape(batch, groups, 1) for statistic in statistics)
    normed = ((x.reshape(batch, groups, -1) - mean) * inverse).reshape(x.shape)
    per_channel = (1, channels, *(1 for _ in x.shape[2:]))
    return _affine(normed, *(p if p is None else p.reshape(per_channel) for p in (weight, bias)))


def _weight_norm(statistics: tuple[Tensor], direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    return direction * (length / statistics[0])


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_FUSED: dict[Any, Callable[..., Tensor]] = {
    aten.native_layer_norm.default: _layer_norm,
    aten._fused_rms_norm.default: _rms_norm,
    aten.native_group_norm.default: _group_norm,
    aten._weight_norm_interface.default: _weight_norm,
}
_STATISTICS = frozenset(
    {
        aten.rsqrt.default,
        aten.var.correction,
        aten.var_mean.correction,
        aten.std.correction,
        aten.std_mean.correction,
        aten.linalg_vector_norm.default,
        aten.norm.ScalarOpt_dim,
    }
)
