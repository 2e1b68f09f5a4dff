"""The engine against a loop over single units, written from the equations."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from support.replacement_oracle import Oracle, Rule
from torch import nn

from lightning_plasticity.replacement import (
    ActivationOnly,
    AdaptableContribution,
    Adaptation,
    AtMost,
    Contribution,
    DeviationByInput,
    Dormancy,
    Fisher,
    GradientMagnitude,
    GradientUtility,
    InterFiringTime,
    LowestMature,
    Method,
    Random,
    RedrawIncoming,
    ResetNorms,
    Selection,
    UnitReplacer,
    WeightMagnitude,
    ZeroContribution,
    ZeroOutgoing,
)
from lightning_plasticity.units import discover_units

RATES = (1e-3, 2e-2, 0.1)
TRACES = {
    "contribution": Contribution,
    "zero_contribution": ZeroContribution,
    "adaptable_contribution": AdaptableContribution,
    "deviation_by_input": DeviationByInput,
    "adaptation": Adaptation,
    "weight_magnitude": WeightMagnitude,
    "activation": ActivationOnly,
    "gradient": GradientUtility,
    "fisher": Fisher,
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3),
}


def mlp():
    widths = (5, 9, 8, 7, 2)
    layers = [each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), (5,)


def convnet():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    return model, (1, 8, 8)


MODELS = {"mlp": mlp, "convnet": convnet}


@dataclass(frozen=True)
class Recorded:
    """A selection that writes down what it chose."""

    selection: Selection
    log: list = field(compare=False)
    layer: int

    def due(self, ages, generator):
        return self.selection.due(ages, generator)

    def choose(self, score, due, ages, generator):
        units = self.selection.choose(score, due, ages, generator)
        if len(units):
            self.log.append((ages.step, self.layer, units.tolist()))
        return units


def run(make_model, make_optimizer, utility, selections, rules, steps=300, every=1):
    """Train the library's copy and the oracle's; return both logs and both models."""
    torch.manual_seed(0)
    model, shape = make_model()
    model = model.double()
    twin = copy.deepcopy(model)
    data = torch.Generator().manual_seed(1)
    oracle = Oracle(twin, make_optimizer(twin.parameters()), rules, seed=7)
    optimizer = make_optimizer(model.parameters())
    units = discover_units(model, torch.randn(2, *shape, dtype=torch.float64))
    log, edits = [], (RedrawIncoming(), ZeroOutgoing(), ResetNorms())
    methods = {
        group.name: Method(utility, Recorded(selection, log, at), edits, every, optimizer_state="zero")
        for at, (group, selection) in enumerate(zip(units, selections, strict=True))
    }
    default = next(iter(methods.values()))
    with UnitReplacer(default, units, optimizer, overrides=methods, seed=7):
        for _ in range(steps):
            x = torch.randn(4, *shape, dtype=torch.float64, generator=data)
            y = x.flatten(1)[:, :2].sin()
            optimizer.zero_grad()
            (model(x) - y).square().sum(1).mean().backward()
            optimizer.step()
            oracle.train_step(x, y)
    return log, oracle.log, model, twin


def assert_same(log, expected, model, twin):
    assert expected, "the test would be empty otherwise"
    assert log == expected
    for (name, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def over_models_and_optimizers(names):
    """All combinations; those beyond one per name, models and optimizers in turn, are slow."""
    cases = []
    for at, name in enumerate(names):
        for number, model in enumerate(MODELS):
            for turn, optimizer in enumerate(OPTIMIZERS):
                quick = (number, turn) == (at % len(MODELS), at % len(OPTIMIZERS))
                marks = () if quick else pytest.mark.slow
                cases.append(pytest.param(name, model, optimizer, marks=marks, id=f"{name}-{model}-{optimizer}"))
    return cases


@pytest.mark.parametrize(("utility", "model", "optimizer"), over_models_and_optimizers([*TRACES, "random"]))
def test_the_lowest_mature_units_are_replaced_in_the_order_of_the_equations(utility, model, optimizer):
    # The three hidden layers have the three rates, in turn, so that each rate meets each kind of layer.
    turn = [*TRACES, "random"].index(utility)
    rates = [RATES[(i + turn) % 3] for i in range(3)]
    chosen = Random() if utility == "random" else TRACES[utility](0.9)
    selections = [LowestMature(rate, 10) for rate in rates]
    rules = [Rule(utility, rate=rate, maturity=10, decay=0.9) for rate in rates]
    result = run(MODELS[model], OPTIMIZERS[optimizer], chosen, selections, rules)
    assert {layer for _, layer, _ in result[1]} == {0, 1, 2}
    assert_same(*result)


@pytest.mark.parametrize(("name", "model", "optimizer"), over_models_and_optimizers(["dormancy", "gradient_magnitude"]))
def test_units_below_a_share_of_their_layer_are_replaced_once_a_period(name, model, optimizer):
    utility = Dormancy() if name == "dormancy" else GradientMagnitude()
    selections, rules = [AtMost(0.6)] * 3, [Rule(name, threshold=0.6, every=7) for _ in range(3)]
    assert_same(*run(MODELS[model], OPTIMIZERS[optimizer], utility, selections, rules, every=7))


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_units_that_are_silent_for_longer_than_their_past_explains_are_replaced(optimizer):
    rules = [Rule("inter_firing_time", threshold=0.02, prior_weight=20) for _ in range(3)]
    result = run(mlp, OPTIMIZERS[optimizer], InterFiringTime(prior_weight=20), [AtMost(0.02)] * 3, rules)
    assert_same(*result)
