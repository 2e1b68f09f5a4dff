"""Normalisation layers: they mix units only through statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.labels import foreign
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.pointwise import with_parameters
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule
from lightning_plasticity.units.tracing.rules.unknown import unknown

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


def _couple(run: Execution, labels: Tensor | None, dims: list[int]) -> bool:
    """Note that all units that vary along ``dims`` share statistics; return whether there are any."""
    if labels is None or all(labels.shape[d] == 1 for d in dims):
        return False
    run.labels.spoil_members(labels[run.labels.mixture[labels]])
    run.labels.couple(labels)
    return True


def _centred(run: Execution, labels: Tensor | None, call: Call) -> Tensor | None:
    """Return labels of units less a common mean: not zero where a unit is, unless its own scale makes it so."""
    scale = call["weight"]
    if labels is None or "rms" in call.name or (scale is not None and run.is_weight(scale)):
        return labels
    return run.labels.shift(labels)


def _affine(
    run: Execution, labels: Tensor | None, tensors: dict[SlotKind, Tensor | None], dim: int | None, ndim: int
) -> Tensor | None:
    """Let per-feature parameters join; they lie along ``dim``, or along the last dimensions."""
    found = []
    for kind, t in tensors.items():
        own = run.soft(t, kind)
        if own is not None:
            shape = [1] * (ndim - own.ndim) + list(own.shape)
            if dim is not None:
                shape = [own.shape[0] if d == dim else 1 for d in range(ndim)]
            found.append(own.reshape(shape))
    if labels is None or not found:
        return labels
    return with_parameters(run, labels, torch.stack(found, -1), SUM if len(found) > 1 else PRODUCT)


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm _batch_norm_with_update _batch_norm_no_update"
)
def batch_norm(run: Execution, call: Call) -> Labelling:
    """Keep the labels of the channels; statistics are per channel, so nothing is mixed."""
    x = call.args[0]
    labels = run.of(x)
    _couple(run, labels, [d for d in range(x.ndim) if d != 1])
    own: dict[SlotKind, Tensor | None] = {
        "scale": call["weight"], "shift": call["bias"],
        "mean": call.bound.get("running_mean"), "variance": call.bound.get("running_var"),
    }  # fmt: skip
    labels = _affine(run, labels, own, 1, x.ndim)
    return [labels, *(foreign(t.ndim) for t in call.outs[1:])]


@rule("_weight_norm_interface")
def weight_norm(run: Execution, call: Call) -> Labelling:
    """Let the entries of a row of a parameter join each other, since each of them changes the whole row."""
    own, size = run.of(call["v"]), run.of(call["g"])
    if own is None or size is None or not run.tape.is_labelling:
        return unknown(run, call)
    rows = own.expand(call["v"].shape).movedim(call["dim"], 0).flatten(1)
    whole = run.labels.fresh(len(rows), soft=True)
    for entries in (*rows.unbind(1), size.reshape(-1)):
        run.labels.edges.append((whole, entries))
        run.labels.unify(whole, entries)
    return [whole.reshape(call["g"].shape), None]


@rule("native_layer_norm _fused_rms_norm")
def layer_norm(run: Execution, call: Call) -> Labelling:
    """Keep the labels of the features and note that they share statistics."""
    x = call.args[0]
    labels = run.joined(x)
    if _couple(run, labels, list(range(x.ndim - len(call["normalized_shape"]), x.ndim))):
        labels = _centred(run, labels, call)
    labels = _affine(run, labels, {"scale": call["weight"], "shift": call.bound.get("bias")}, None, x.ndim)
    return [labels, *(foreign(t.ndim) for t in call.outs[1:])]


@rule("native_group_norm")
def group_norm(run: Execution, call: Call) -> Labelling:
    """Keep the labels of the channels; those of one group share statistics."""
    x = call.args[0]
    labels = run.joined(x)
    groups = int(call["group"])
    if _couple(run, labels, [d for d in range(1, x.ndim) if d != 1 or groups < x.shape[1]]):
        labels = _centred(run, labels, call)
    labels = _affine(run, labels, {"scale": call["weight"], "shift": call["bias"]}, 1, x.ndim)
    return [labels, *(foreign(t.ndim) for t in call.outs[1:])]
