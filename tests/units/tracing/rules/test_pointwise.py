"""Element by element: functions keep labels, operands meet, gates that are open at zero are remembered."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import nn
from torch.nn import functional as F

from lightning_plasticity.units.tracing.why import DILUTED

ZERO_AT_ZERO = [F.relu, F.gelu, F.silu, torch.tanh, F.hardswish, F.elu, torch.abs, lambda x: x.clone(), F.dropout]
OPEN_AT_ZERO = [torch.sigmoid, torch.exp, torch.cos, F.softplus, F.hardsigmoid, lambda x: x + 1]


@pytest.mark.parametrize("function", ZERO_AT_ZERO)
def test_a_function_that_is_zero_at_zero_keeps_the_labels(function):
    bench = Bench()
    x = bench.data(2, 3)
    assert torch.equal(bench.of(bench(function, x)), bench.of(x))


@pytest.mark.parametrize("function", OPEN_AT_ZERO)
def test_a_function_that_is_not_zero_at_zero_keeps_the_units_and_says_so(function):
    bench = Bench()
    x = bench.data(2, 3)
    labels = bench.of(bench(function, x))
    assert torch.equal(bench.labels.find(labels), bench.of(x))
    assert bench.labels.offset[labels].all()


@pytest.mark.parametrize(
    "function", [torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.atan2, torch.complex]
)
def test_operands_with_as_many_units_are_unified(function):
    bench = Bench()
    x, y = bench.data(2, 3), bench.data(2, 3)
    labels = bench.labels.find(bench.of(bench(function, x, y)))
    assert torch.equal(labels, bench.labels.find(bench.of(y)))
    assert torch.equal(labels, bench.labels.find(bench.of(x)))


@pytest.mark.parametrize("function", [torch.add, torch.maximum, lambda x, y: torch.where(y > 0, x, y)])
def test_a_sum_or_a_choice_with_foreign_data_is_a_blend(function):
    bench = Bench()
    x = bench.data(2, 3)
    blend = bench.of(bench(function, x, bench.data(2, 3, dims=())))
    assert torch.equal(bench.labels.core[blend], bench.of(x))
    assert bench.reasons(x) == {""}
    bench.labels.spoil_members(blend)
    assert bench.reasons(x) == {DILUTED}


@pytest.mark.parametrize("function", [torch.mul, lambda x, y: x.masked_fill(y > 0, 0), lambda x, y: x * (y > 0)])
def test_a_product_with_foreign_data_or_a_mask_is_the_unit(function):
    bench = Bench()
    x = bench.data(2, 3)
    assert torch.equal(bench.of(bench(function, x, bench.data(2, 3, dims=()))), bench.of(x))
    assert bench.reasons(x) == {""}


def test_a_sum_of_a_unit_and_its_gate_is_open_at_zero_as_the_gate_is_and_their_product_is_not():
    bench = Bench()
    x = bench.data(2, 3)
    gate = bench(torch.sigmoid, x)
    for one, other in ((x, gate), (gate, x)):
        assert bench.labels.offset[bench.of(bench(torch.add, one, other))].all()
        assert not bench.labels.offset[bench.of(bench(torch.mul, one, other))].any()


def test_smaller_operands_are_broadcast_as_their_numbers_are():
    bench = Bench()
    x, y = bench.data(2, 5, 3), bench.data(3)
    assert torch.equal(bench.labels.find(bench.of(bench(torch.mul, x, y))), bench.labels.find(bench.of(x)))


def test_the_halves_of_a_gated_linear_unit_meet():
    bench = Bench()
    x = bench.data(2, 6)
    first, second = bench.of(x).chunk(2, 1)
    assert torch.equal(bench.labels.find(bench.of(bench(F.glu, x))), first)
    assert torch.equal(bench.labels.find(second), first)


def test_foreign_data_under_the_gate_of_a_gated_linear_unit_remains_where_the_unit_is_zero():
    bench = Bench()
    unit = bench.data(2, 3)
    both = bench(torch.cat, [bench.data(2, 3, dims=()), unit], 1)
    blend = bench.of(bench(F.glu, both))
    assert torch.equal(bench.labels.find(bench.labels.core[blend]), bench.of(unit))


@pytest.mark.parametrize(("function", "kind"), [(torch.add, "bias"), (torch.mul, "carried")])
def test_a_parameter_is_a_bias_where_it_is_added_and_carried_elsewhere(function, kind):
    model = nn.Module()
    model.own = nn.Parameter(torch.randn(3))
    bench = Bench(model)
    x = bench.data(2, 3)
    bench(function, x, model.own)
    (source,) = bench.run.sources.all
    assert source.kinds == {kind}
    assert torch.equal(bench.labels.find(bench.run.sources.entries(source)), bench.of(x)[0])


def test_what_is_overwritten_does_not_matter():
    bench = Bench()
    x, y = bench.data(2, 3), bench.data(2, 3)
    labels = bench.of(y)
    bench(x.copy_, y)
    assert torch.equal(bench.of(x), labels)
    bench(x.zero_)
    assert not bench.of(x).any()
