"""Recurrent layers in one operation: they read units and have none, because what they write feeds themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_plasticity.units.tracing.labels import foreign
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.contractions import contract
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

FEEDS_ITSELF = "a recurrent layer feeds it back to itself"


@rule("mkldnn_rnn_layer")
def layer(run: Execution, call: Call) -> Labelling:
    """Read the input with the first weight."""
    return _fed_back(run, call, [call["weight0"]], [call["hx_"], call["cx_"]])


@rule("_cudnn_rnn miopen_rnn")
def layers(run: Execution, call: Call) -> Labelling:
    """Read the input with the first weight of the first layer, in both directions if there are two."""
    weights, per_layer = call["weight"], int(call["weight_stride0"])
    first = weights[:: max(1, per_layer)][: 1 + bool(call["bidirectional"])]
    return _fed_back(run, call, first, [call["hx"], call["cx"]])


@rule("_thnn_fused_lstm_cell _thnn_fused_gru_cell")
def cell(run: Execution, call: Call) -> Labelling:
    """Combine the gates, whose rows are not units."""
    for tensor in call.inputs:
        run.spoil(run.of(tensor), FEEDS_ITSELF)
    return [foreign(t.ndim) for t in call.outs]


def _fed_back(run: Execution, call: Call, reading: list[Tensor], states: list[Tensor | None]) -> Labelling:
    """Let weights read the input; spoil their rows, and every state that the layer starts from."""
    x = call["input"]
    positions = "ab"[: x.ndim - 1]
    for weight in reading:
        run.spoil(contract(run, x, weight, f"{positions}k,rk->{positions}r"), FEEDS_ITSELF)
    for state in states:
        run.spoil(run.of(state), FEEDS_ITSELF)
    return [foreign(t.ndim) for t in call.outs]


@rule("_pack_padded_sequence")
def pack(run: Execution, call: Call) -> Labelling:
    """Drop what is padding; features stay where they are."""
    x = call["input"]
    labels = run.mix(run.of(x), [0, 1], FEEDS_ITSELF)
    return [None if labels is None else labels.reshape([1, *labels.shape[2:]]), foreign(1)]
