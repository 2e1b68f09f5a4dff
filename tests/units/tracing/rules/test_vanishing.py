"""Zero in place of an operand shows whether the result vanishes with it; nothing else is asked."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch.nn import functional as F

from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.vanishing import experiment, is_zero

ATEN = torch.ops.aten
X, Y, MASK = torch.ones(2, 3), torch.full((2, 3), 5.0), torch.ones(2, 3, dtype=torch.bool)

OPERANDS = {  # which operands the result vanishes with
    "product": (ATEN.mul.Tensor, (X, Y), {0, 1}),
    "product in place": (ATEN.mul_.Tensor, (X, Y), {0, 1}),
    "quotient": (ATEN.div.Tensor, (X, Y), {0}),
    "sum": (ATEN.add.Tensor, (X, Y), set()),
    "sum with a number": (ATEN.add.Tensor, (X, 1), set()),
    "sum with zero": (ATEN.add.Tensor, (X, 0), {0}),
    "maximum": (ATEN.maximum.default, (X, Y), set()),
    "power": (ATEN.pow.Scalar, (1.7, X), set()),
    "square": (ATEN.pow.Tensor_Scalar, (X, 2), {0}),
    "comparison with a number": (ATEN.gt.Scalar, (X, 0), {0}),
    "equality": (ATEN.eq.Tensor, (X, Y), set()),
    "at most": (ATEN.le.Tensor, (X, Y), set()),
    "negated mask": (ATEN.logical_not.default, (MASK,), set()),
    "both masks": (ATEN.bitwise_and.Tensor, (MASK, MASK.clone()), {0, 1}),
    "masked with zero": (ATEN.masked_fill.Scalar, (X, MASK, 0.0), {0}),
    "masked with one": (ATEN.masked_fill.Scalar, (X, MASK, 1.0), set()),
    "choice": (ATEN.where.self, (MASK, X, Y), set()),
    "clamped at zero": (ATEN.clamp.default, (X, 0, 6), {0}),
    "clamped above zero": (ATEN.clamp.default, (X, 0.1), set()),
    "slopes": (ATEN._prelu_kernel.default, (X, Y), {0}),
    "dropout": (ATEN.bernoulli.p, (X, 0.5), set()),
    "softmax": (ATEN._softmax.default, (X, 1, False), set()),
    "running sum": (ATEN.cumsum.default, (X, 1), {0}),
    "interpolation": (ATEN.lerp.Scalar, (X, Y, 0.3), set()),
}


@pytest.mark.parametrize("kind", OPERANDS)
def test_zero_in_place_of_an_operand_shows_whether_the_result_vanishes(kind):
    func, args, expected = OPERANDS[kind]
    args = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
    trial = experiment(Bench().run, Call(func, tuple(args), {}, func(*args)))
    count = sum(isinstance(arg, torch.Tensor) for arg in args)
    assert {place for place in range(count) if trial.vanishes(place)} == expected


def test_several_operands_can_vanish_together():
    trial = experiment(Bench().run, Call(ATEN.where.self, (MASK, X, Y), {}, X))
    assert trial.vanishes(1, 2)
    assert not trial.vanishes(0, 1)


def test_every_result_is_looked_at():
    trial = experiment(Bench().run, Call(ATEN.sort.default, (X,), {}, ATEN.sort.default(X)))
    assert trial.vanishing(0) == (True, False)


def test_an_experiment_that_fails_shows_nothing():
    trial = experiment(Bench().run, Call(ATEN.topk.default, (X, 1000), {}, (X, X.long())))
    assert not trial.vanishes(0)


def test_the_result_does_not_depend_on_numbers_and_draws_none_of_the_models():
    state = torch.get_rng_state()
    found = [
        experiment(Bench().run, Call(func, (x, 0.5), {}, x)).vanishes(0)
        for x in (X, torch.zeros(2, 3))
        for func in (ATEN.bernoulli.p, ATEN.mul.Tensor)
    ]
    assert found == [False, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_result_that_is_written_into_a_given_tensor_is_the_same():
    x, out = X.clone(), torch.empty(2, 3)
    trial = experiment(Bench().run, Call(ATEN.sigmoid.out, (x,), {"out": out}, out))
    assert not trial.vanishes(0)
    trial = experiment(Bench().run, Call(ATEN.tanh.out, (x,), {"out": out}, out))
    assert trial.vanishes(0)


def test_only_a_constant_of_the_forward_pass_is_known_to_be_zero():
    bench = Bench()
    made, ones = bench(torch.zeros, 2, 3), bench(torch.ones, 2, 3)
    assert is_zero(bench.run, made)
    assert is_zero(bench.run, 0.0)
    assert not is_zero(bench.run, ones)
    assert not is_zero(bench.run, bench.data(2, 3, values=torch.zeros(2, 3)))
    model = torch.nn.Module()
    model.register_buffer("mean", torch.zeros(2, 3))
    assert not is_zero(Bench(model).run, model.mean)


@pytest.mark.parametrize(("made", "stays"), [(torch.zeros, True), (torch.ones, False)])
def test_a_choice_between_a_unit_and_zeros_vanishes_with_the_unit(made, stays):
    bench = Bench()
    x = bench.data(2, 3)
    other, mask = bench(made, 2, 3), bench.data(2, 3, dims=(), values=MASK)
    labels = bench.of(bench(torch.where, mask, x, other))
    assert torch.equal(labels, bench.of(x)) is stays
    assert bool(bench.labels.mixture[labels].all()) is not stays


def test_a_mask_made_of_a_unit_does_not_open_what_vanishes_with_it():
    bench = Bench()
    x = bench.data(2, 3)
    labels = bench.of(bench(lambda: torch.where(x >= 0, x, 0.1 * x)))
    assert torch.equal(bench.labels.find(labels), bench.of(x))
    assert not bench.labels.offset[labels].any()
    assert bench.labels.offset[bench.of(bench(lambda: x.sigmoid() + F.relu(x)))].all()
