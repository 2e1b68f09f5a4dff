"""Views: the labels of a view are the same view of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_plasticity.units.rules.call import Call, tensors_in
from lightning_plasticity.units.shadow import regroup, restrict

if TYPE_CHECKING:
    from lightning_plasticity.units.execution import Execution

_RESHAPES = {"view", "_unsafe_view", "_reshape_alias", "reshape"}


def follow(run: Execution, call: Call) -> None:
    """Remember the labels of a view of an activation; what cannot be told cheaply is read from memory on demand."""
    base = call.args[0]
    if run.is_weight(base):
        return
    labels = run.shadow.labels(base)
    results = tensors_in(call.out if isinstance(call.out, (tuple, list)) else (call.out,))
    if labels is None or base.numel() == 0:
        for view in results:
            run.shadow.remember_view(view, None)
    elif call.name in _RESHAPES and base.dtype == results[0].dtype:
        run.shadow.remember_view(results[0], regroup(labels, tuple(base.shape), tuple(results[0].shape)))
    elif call.name == "view_as_complex":
        pairs = run.mix(labels, [labels.ndim - 1], "real and imaginary parts belong to different units")
        run.shadow.remember_view(results[0], None if pairs is None else pairs.squeeze(-1))
    elif call.name == "view_as_real":
        run.shadow.remember_view(results[0], labels.unsqueeze(-1))
    elif call.name != "as_strided" and base.dtype == results[0].dtype:
        _repeat(run, call, labels.expand(base.shape), results)


def _repeat(run: Execution, call: Call, labels: Tensor, results: list[Tensor]) -> None:
    args: tuple[Any, ...] = (labels, *call.args[1:])
    if tensors_in((*args[1:], *call.kwargs.values())):
        return
    found = call.func(*args, **call.kwargs)
    for view, of_view in zip(results, found if isinstance(found, (tuple, list)) else (found,), strict=True):
        run.shadow.remember_view(view, restrict(of_view))
