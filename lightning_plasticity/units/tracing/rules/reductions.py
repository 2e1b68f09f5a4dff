"""Operations along dimensions: reductions, softmax, sorting, cumulative sums, losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_plasticity.units.statistics import has_statistics
from lightning_plasticity.units.tracing.labels import foreign
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.pointwise import pointwise
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule, rule_for_tag
from lightning_plasticity.units.tracing.rules.vanishing import shifted
from lightning_plasticity.units.tracing.why import COMBINED

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


def _dims(given: Any, ndim: int) -> list[int]:
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return list(range(ndim))
    return [d % ndim if ndim else 0 for d in ([given] if isinstance(given, int) else given)]


@rule_for_tag("reduction")
@rule(
    "mean sum prod amax amin max min any all argmax argmin var std var_mean std_mean logsumexp norm median nanmedian "
    "mode kthvalue count_nonzero linalg_vector_norm aminmax nansum"
)
def reduction(run: Execution, call: Call) -> Labelling:
    """Combine along the reduced dimensions, which may disappear; statistics are those that a proof can hold still."""
    x = call.args[0]
    if isinstance(call.bound.get("other"), Tensor):  # max and min of two tensors are element-wise
        return pointwise(run, call)
    dims = _dims(call.bound.get("dim"), x.ndim)
    labels = run.mix(run.of(x), dims, COMBINED, statistic=has_statistics(call.func, call.args))
    if labels is None:
        return [None] * len(call.outs)
    reduced = labels.reshape([n for d, n in enumerate(labels.shape) if d not in dims])
    return shifted(run, call, [labels if t.ndim == x.ndim else reduced for t in call.outs])


@rule(
    "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod logcumsumexp sort topk cummax cummin "
    "argsort renorm"
)
def along(run: Execution, call: Call) -> Labelling:
    """Let every result along a dimension depend on everything along it."""
    x = call.args[0]
    dims = _dims(call["dim"], x.ndim)
    if call.name == "renorm":  # what lies along this dimension is what is scaled, each as a whole
        dims = [d for d in range(x.ndim) if d not in dims]
    labels = run.mix(run.of(x), dims, _comparing(call))
    return shifted(run, call, [labels] * len(call.outs))


@rule("_fft_r2c _fft_c2c _fft_c2r")
def spectrum(run: Execution, call: Call) -> Labelling:
    """Let every result along a dimension depend on everything along it; being linear, it vanishes with that."""
    x = call.args[0]
    return run.mix(run.of(x), _dims(call["dim"], x.ndim), _comparing(call))


def _comparing(call: Call) -> str:
    return f"each of its numbers is made of several units at once ({call.name.strip('_')})"


@rule(
    "nll_loss_forward nll_loss2d_forward mse_loss smooth_l1_loss huber_loss binary_cross_entropy "
    "soft_margin_loss multi_margin_loss multilabel_margin_loss_forward _ctc_loss dot "
    "affine_grid_generator"
)
def loss(run: Execution, call: Call) -> Labelling:
    """Combine everything into a number."""
    found = [labels.reshape(-1) for t in call.inputs if (labels := run.of(t)) is not None]
    if not found:
        return [None] * len(call.outs)
    mixed = run.mix(torch.cat(found), [0], COMBINED)
    return [None if mixed is None else mixed.reshape([1] * t.ndim) for t in call.outs]


@rule("_local_scalar_dense nonzero masked_select unique_consecutive _unique2 unique_dim histc bincount equal")
def leave(run: Execution, call: Call) -> Labelling:
    """Spoil: the values steer the program or the shapes."""
    for t in call.inputs:
        run.spoil(run.of(t), f"its values steer the program ({call.name})")
    return [foreign(t.ndim) for t in call.outs]
