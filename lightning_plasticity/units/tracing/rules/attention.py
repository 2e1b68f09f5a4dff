"""Attention in one operation; in evaluation of the units it is normally written out as products and a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_plasticity.units.tracing.labels import foreign
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule
from lightning_plasticity.units.tracing.why import COMBINED, MATCHED

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


@rule(
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
)
def attention(run: Execution, call: Call) -> Labelling:
    """Compare queries with keys; pass values on."""
    last = call["query"].ndim - 1
    scores = [run.mix(run.of(call[name]), [last - 1, last], MATCHED) for name in ("query", "key")]
    values = run.mix(run.of(call["value"]), [last - 1], COMBINED)
    labels = run.meet(run.meet(scores[0], scores[1]), values)
    return [labels, *(foreign(t.ndim) for t in call.outs[1:])]
