"""A parameter is a bias where it is added to units, also if it was cast or scaled before; nothing else becomes one."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units, verify_units
from lightning_plasticity.units.tracing.summands import summands

X = torch.randn(8, 4)


class Hidden(nn.Module):
    """One hidden layer, written by a function of the weights and the input."""

    def __init__(self, hidden) -> None:
        super().__init__()
        self.hidden, self.head = hidden, nn.Linear(6, 2)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
        self.scale, self.mask = nn.Parameter(torch.rand(6) + 0.5), nn.Buffer(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self, x).to(x.dtype).relu())


def autocast(m: Hidden, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x, m.weight, m.bias)


def in_place(m: Hidden, x: Tensor) -> Tensor:
    return (m.bias * 0.5).expand(len(x), -1).clone().add_(x @ m.weight.t())


ADDED = {
    "under autocast": autocast,
    "cast": lambda m, x: F.linear(x, m.weight, m.bias.to(torch.float64).to(x.dtype)),
    "scaled by a number": lambda m, x: F.linear(x, m.weight * 0.7, m.bias * 0.5),
    "scaled in place": lambda m, x: F.linear(x, m.weight, m.bias.clone().mul_(0.5)),
    "divided": lambda m, x: x @ m.weight.t() - m.bias / 2,
    "scaled by a buffer": lambda m, x: F.linear(x, m.weight, m.bias * m.mask),
    "put together from parts": lambda m, x: F.linear(x, m.weight, torch.cat([m.bias[:3], m.bias[3:] * 1])),
    "added in place": in_place,
}


@pytest.mark.parametrize("how", ADDED)
def test_a_bias_that_is_cast_or_scaled_is_a_bias(how):
    model = Hidden(ADDED[how])
    (group,) = units = discover_units(model, X)
    assert [(slot.path, slot.kind) for slot in group.incoming] == [("weight", "weight"), ("bias", "bias")]
    assert group.norms == ()
    assert not verify_units(model, X, units).failed


OTHERS = {
    "an exponential": (lambda m, x: x @ m.weight.t() + m.bias.exp(), {"bias"}),
    "a factor": (lambda m, x: (x @ m.weight.t()) * (m.scale * 0.5), {"scale"}),
    "a factor cast": (lambda m, x: (x @ m.weight.t()) * m.scale.to(torch.float64).to(x.dtype), {"scale"}),
    "one plus a factor": (lambda m, x: (x @ m.weight.t()) * (1 + m.scale), {"scale"}),
    "two parameters multiplied": (lambda m, x: x @ m.weight.t() + m.bias * m.scale, {"bias", "scale"}),
    "a divisor": (lambda m, x: x @ m.weight.t() + 1 / m.scale, {"scale"}),
    "a factor and a summand": (lambda m, x: (x @ m.weight.t()) * (m.bias * 2) + m.bias * 2, {"bias"}),
}


@pytest.mark.parametrize("how", OTHERS)
def test_what_is_not_merely_added_is_carried(how):
    compute, carried = OTHERS[how]
    (group,) = discover_units(Hidden(compute), X)
    assert {(slot.path, slot.kind) for slot in group.norms} == {(name, "carried") for name in carried}


def test_both_biases_of_a_recurrent_layer_are_biases():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5, proj_size=4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    group = discover_units(Model(), torch.randn(2, 5, 3))["lstm"]
    assert [slot.kind for slot in group.incoming] == ["weight", "weight", "bias", "bias"]


def test_the_shift_of_a_norm_is_a_shift_if_it_is_scaled_and_its_scale_is_carried_then():
    def normed(m: Hidden, x: Tensor) -> Tensor:
        return F.layer_norm(x @ m.weight.t(), (6,), m.scale * 2, m.bias * 2)

    (group,) = discover_units(Hidden(normed), X)
    assert {(slot.path, slot.kind) for slot in group.norms} == {("scale", "carried"), ("bias", "shift")}


def test_what_was_done_later_in_the_same_memory_does_not_count():
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    bench = Bench(model)
    first = bench(model.a.clone)
    second = bench(lambda: first * 2 - model.b)
    bench(lambda: first.exp_())
    a, b = bench.run.sources.all
    assert summands(second, bench.run.tape.slice(second), bench.run.sources) == {a, b}
    assert summands(first, bench.run.tape.slice(first), bench.run.sources) == set()


def test_a_cast_to_whole_numbers_adds_nothing_in_proportion():
    model = nn.Module()
    model.a = nn.Parameter(torch.randn(3))
    bench = Bench(model)
    made = bench(lambda: model.a.to(torch.int64).to(torch.float32))
    assert summands(made, bench.run.tape.slice(made), bench.run.sources) == set()
