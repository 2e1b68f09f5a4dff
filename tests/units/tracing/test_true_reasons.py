"""What is said of a layer that is left alone is what is there, also where it is not what one thinks of first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.left_out import passed_over
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units
from lightning_plasticity.units.tracing.why import ADDED, DILUTED, MATCHED, OUTPUT, SCALES


class Model(nn.Module):
    """Computes ``run(self, x)`` with the given layers and parameters, of which some lie in a layer ``inner``."""

    def __init__(
        self, run: Callable[[Any, Tensor], Tensor], inner: Any = None, **parts: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self.run, self.inner = run, nn.Module()
        for owner, own in ((self, parts), (self.inner, inner or {})):
            for name, part in own.items():
                setattr(owner, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) / rows**0.5)


def dueling(model: Any, x: Tensor) -> Tensor:
    hidden = model.body(x).relu()
    advantage = model.advantage(hidden)
    return model.value(hidden) + advantage - advantage.mean(1, keepdim=True)


class Mixer(nn.Module):
    """Mixes the three tokens of every channel, then the four channels of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.over_tokens = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 3))
        self.over_channels = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(x.mT).mT
        return x + self.over_channels(x)


def linear_attention(model: Any, x: Tensor) -> Tensor:
    query, key = (F.elu(layer(x)) + 1 for layer in (model.query, model.key))
    return model.out(query @ (key.mT @ model.value(x)))


def softmax_gate(model: Any, x: Tensor) -> Tensor:
    weights, experts = model.gate(x).softmax(-1), torch.stack([expert(x) for expert in model.experts], 1)
    return model.out((weights.unsqueeze(-1) * experts).sum(1).relu())


SEQUENCE, ROWS = (2, 3, 4), (5, 4)

CASES: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, str]]] = {
    "dueling heads": (
        Model(dueling, body=nn.Linear(4, 6), value=nn.Linear(6, 1), advantage=nn.Linear(6, 3)),
        ROWS, {"value": OUTPUT, "advantage": OUTPUT},
    ),
    "a mixer": (
        nn.Sequential(nn.Linear(4, 4), Mixer(), nn.Linear(4, 2)),
        SEQUENCE, {"1.over_tokens.2": ADDED, "1.over_channels.2": DILUTED, "2": OUTPUT},
    ),
    "the last layer of a transformer": (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        SEQUENCE, {
            "self_attn": f"8 of 12 units: {MATCHED}",
            "self_attn.out_proj": OUTPUT,
            "linear2": OUTPUT,
        },
    ),
    "linear attention": (
        Model(linear_attention, **{name: nn.Linear(4, 6) for name in ("query", "key", "value")}, out=nn.Linear(6, 2)),
        SEQUENCE, {"query": MATCHED, "key": SCALES, "out": OUTPUT},
    ),
    "a bilinear layer at the end": (
        Model(lambda m, x: m.both(m.a(x).relu(), m.b(x).relu()), a=nn.Linear(4, 6), b=nn.Linear(4, 5),
              both=nn.Bilinear(6, 5, 2)),
        ROWS, {
            "a": "operation '_trilinear' has no rule, so it may mix them",
            "b": "operation '_trilinear' has no rule, so it may mix them",
            "both": "its weight is used by operation '_trilinear', which has no rule",
        },
    ),
    "distances to centres at the end": (
        Model(lambda m, x: torch.cdist(m.a(x).relu(), m.centres), a=nn.Linear(4, 6), centres=matrix(3, 6)),
        ROWS, {
            "centres": "it is used by operation '_cdist_forward', which has no rule",
            "a": "operation '_cdist_forward' has no rule, so it may mix them",
        },
    ),
    "a product of two parameters": (
        Model(lambda m, x: x @ (m.inner.a @ m.inner.b), {"a": matrix(4, 3), "b": matrix(3, 2)}),
        ROWS, {
            "inner.a": "it is a factor of a computed weight (mm), and no row of that is made of its entries alone",
            "inner.b": OUTPUT,
        },
    ),
    "parameters with names of their own": (
        Model(lambda m, x: (x @ m.inner.first).relu() @ m.inner.last,
              {"first": matrix(4, 6), "last": matrix(6, 2), "spare": matrix(2, 2)}),
        ROWS, {"inner.last": OUTPUT, "inner.spare": "it met no activation on the example"},
    ),
    "a softmax over experts": (
        Model(softmax_gate, gate=nn.Linear(4, 3), experts=nn.ModuleList(nn.Linear(4, 6) for _ in range(3)),
              out=nn.Linear(6, 2)),
        ROWS, {
            "gate": "each of its numbers is made of several units at once (softmax)", "out": OUTPUT,
        },
    ),
    "a softmax over a parameter": (
        Model(lambda m, x: m.b(m.a(x).relu() * m.scores.softmax(0)), a=nn.Linear(4, 6), b=nn.Linear(6, 2),
              scores=nn.Parameter(torch.randn(6))),
        ROWS, {"scores": "each of its numbers is made of several units at once (softmax)", "b": OUTPUT},
    ),
    "one gate for all units": (
        Model(lambda m, x: m.b(m.a(x).relu() * m.gate(x).sigmoid()), a=nn.Linear(4, 6), b=nn.Linear(6, 2),
              gate=nn.Linear(4, 1)),
        ROWS, {"gate": SCALES, "b": OUTPUT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_true_reason_is_said_of_every_layer_once(name):
    model, shape, reasons = CASES[name]
    units = discover_units(model, torch.randn(shape))
    said = [(skip.layer, skip.reason) for skip in units.skipped if skip.layer != "0"]
    assert sorted(said) == sorted(reasons.items())
    assert passed_over(model, units) == []


def test_several_reasons_of_a_layer_are_one_entry():
    model = Model(lambda m, x: m.read(m.both(x)[:, :4]) + m.both(x)[:, 4:6], both=nn.Linear(4, 7), read=nn.Linear(4, 2))
    (skip,) = (skip for skip in discover_units(model, torch.randn(5, 4)).skipped if skip.layer == "both")
    assert skip.reason == f"2 of 7 units: {OUTPUT}; 1 of 7 units: no layer reads it"
