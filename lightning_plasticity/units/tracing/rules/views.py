"""Views: the labels of a view are the same view of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.shadow import regroup, restrict

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

_RESHAPES = {"view", "_reshape_alias"}


def follow(run: Execution, call: Call) -> list[Tensor | None]:
    """Return the labels of views of an activation; nothing if they are cheaper to read from memory on demand."""
    base, results = call.args[0], call.outs
    if run.is_weight(base):
        return []
    labels = run.shadow.labels(base)
    if labels is None or base.numel() == 0:
        return [None] * len(results)
    if call.name in _RESHAPES and base.dtype == results[0].dtype:
        return [regroup(labels, tuple(base.shape), tuple(results[0].shape))]
    if call.name in {"_conj", "_neg_view"}:
        return [labels]
    if call.name == "view_as_complex":
        pairs = run.mix(labels, [labels.ndim - 1], "real and imaginary parts belong to different units")
        return [None if pairs is None else pairs.squeeze(-1)]
    if call.name == "view_as_real":
        return [labels.unsqueeze(-1)]
    if call.name == "as_strided" or base.dtype != results[0].dtype or len(call.inputs) > 1:
        return []
    found = call.func(labels.expand(base.shape), *call.args[1:], **call.kwargs)
    return [restrict(view) for view in (found if isinstance(found, (tuple, list)) else (found,))]
