"""Every operation is followed: what it made is data, a constant, or computed from parameters."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import nn

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
