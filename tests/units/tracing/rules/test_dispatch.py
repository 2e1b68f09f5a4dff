"""Every operation is followed: what it made is data, a constant, or computed from parameters."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import nn

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY
from lightning_plasticity.units.tracing.shadow import Origin


def owner() -> nn.Module:
    model = nn.Module()
    model.weight, model.mask = nn.Parameter(torch.randn(3, 3)), nn.Buffer(torch.ones(3, 3))
    return model


ORIGINS = {
    "made from nothing": (lambda model, x: torch.zeros(3, 3), Origin.CONSTANT),
    "made like data": (lambda model, x: torch.zeros_like(x), Origin.CONSTANT),
    "made from a buffer": (lambda model, x: model.mask * 2, Origin.CONSTANT),
    "made from a parameter": (lambda model, x: model.weight * 2, Origin.DERIVED),
    "made from a parameter and a buffer": (lambda model, x: model.weight * model.mask, Origin.DERIVED),
    "made from a parameter and data": (lambda model, x: model.weight * x, Origin.DATA),
    "a constant that a parameter was written into": (
        lambda model, x: torch.zeros(3, 3).copy_(model.weight),
        Origin.DERIVED,
    ),
    "a constant that data was written into": (lambda model, x: torch.zeros(3, 3).copy_(x), Origin.DATA),
}


@pytest.mark.parametrize("kind", ORIGINS)
def test_the_origin_of_a_result_is_the_strongest_of_what_went_in(kind):
    function, origin = ORIGINS[kind]
    model = owner()
    bench = Bench(model)
    assert bench.run.shadow.origin(bench(function, model, bench.data(3, 3))) is origin


def test_what_parameters_compute_is_on_the_tape_without_views():
    model = owner()
    bench = Bench(model)
    out = bench(lambda: (model.weight.t() * model.mask).t().view(9).exp())
    assert [str(step.func) for step in bench.run.tape.slice(out)] == ["aten.mul.Tensor", "aten.exp.default"]


def test_a_parameter_that_the_forward_pass_changes_has_a_fault():
    model = owner()
    bench = Bench(model)
    bench(lambda x: model.weight.copy_(x), bench.data(3, 3))
    assert bench.run.sources.all[0].fault == "is changed by the forward pass itself"


def test_an_operation_of_the_second_run_is_concluded_from_memory():
    bench = Bench()
    x, y = bench.data(2, 3), bench.data(2, 3)
    bench.run.runs = 1
    first = bench(torch.mul, x, y)
    bench.run.runs = 2
    count = bench.labels.count
    assert torch.equal(bench.of(bench(torch.mul, x, y)), bench.of(first))
    assert bench.labels.count == count


class Layer(nn.Module):
    """Multiplies what it is called with, or a tensor of its own, with its weight."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.randn(3, 3)), nn.Buffer(torch.randn(2, 3))
        self.own = own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.other if self.own else x) @ self.weight.t()


class Calls(nn.Module):
    """Calls a layer with something of its own, or made from nothing."""

    def __init__(self, given) -> None:
        super().__init__()
        self.weight, self.mask = nn.Parameter(torch.randn(3, 3)), nn.Buffer(torch.ones(3, 3))
        self.layer, self.given = Layer(own=False), given

    def forward(self) -> torch.Tensor:
        return self.layer(self.given(self))


GIVEN = {
    "a parameter": lambda owner: owner.weight,
    "what parameters made": lambda owner: owner.weight.tanh(),
    "a buffer": lambda owner: owner.mask,
    "zeros": lambda owner: torch.zeros(2, 3),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_layer_that_is_called_with_parameters_or_constants_has_rows_and_columns(kind):
    bench = Bench(model := Calls(GIVEN[kind]))
    with bench.run.frames.watched():
        out = bench(model)
    assert bench.run.shadow.origin(out) is Origin.DATA
    assert {use.role for use in bench.run.uses.values() if use.source.path == "layer.weight"} == {"in", "out"}
    (read,) = (use.labels for use in bench.run.uses.values() if use.role == "out")
    assert bool((read == NOBODY).all()) is (kind == "zeros")
    assert bool((read == FOREIGN).all()) is (kind == "a buffer")


def test_a_module_that_multiplies_its_weight_with_a_tensor_of_its_own_makes_a_weight():
    model = Layer(own=True)
    bench = Bench(model)
    with bench.run.frames.watched():
        out = bench(lambda: model(torch.zeros(2, 3)))
    assert bench.run.shadow.origin(out) is Origin.DERIVED
    assert not bench.run.uses
