"""Operations without a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.registry import Labelling

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


def unknown(run: Execution, call: Call) -> Labelling:
    """Let every result depend on everything that the operation reads."""
    for t in call.inputs:
        source = run.sources.find(t)
        if source is not None and source.is_parameter:
            source.fault = f"is used by operation {call.name!r}, which has no rule"
    found = [labels.reshape(-1) for t in call.inputs if (labels := run.of(t)) is not None]
    if not found:
        return [None] * len(call.outs)
    why = f"operation {call.name!r} has no rule, so it may mix them"
    run.labels.opaque.add(run.labels.code(why))
    mixed = run.mix(torch.cat(found), [0], why)
    return [None if mixed is None else mixed.reshape([1] * t.ndim) for t in call.outs]
