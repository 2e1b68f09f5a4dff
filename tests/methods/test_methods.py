"""Methods as compositions."""

from __future__ import annotations

import copy
import pickle  # noqa: S403 - our own objects

import pytest
import torch
from support.small_nets import groups_of, mlp, train
from torch import nn

from lightning_plasticity import methods
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods import (
    continual_backprop,
    random_replacement,
    redo,
    regrama,
    self_normalized_resets,
)
from lightning_plasticity.replacement import AtMost, UnitReplacer

ALL = [getattr(methods, name) for name in methods.__all__]
EAGER = {
    "continual_backprop": {"replacement_rate": 0.1, "maturity_threshold": 3},
    "random_replacement": {"replacement_rate": 0.1, "maturity_threshold": 3},
    "redo": {"threshold": 0.5, "every_n_steps": 4},
    "regrama": {"threshold": 0.5, "every_n_steps": 4},
    "self_normalized_resets": {"rejection_rate": 0.1, "prior_weight": 5.0},
}
each = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)


def run(rule, model, steps=40, lr=0.05, features=4):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    data = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, features, dtype=torch.float64, generator=data) for _ in range(steps)]
    with UnitReplacer(rule, groups_of(model, features), optimizer, seed=0) as replacer:
        train(model, optimizer, batches, target=lambda x: x[:, :2].sin())
    return replacer


@each
def test_a_method_is_plain_data(make):
    rule = make()
    assert pickle.loads(pickle.dumps(rule)) == rule == copy.deepcopy(rule)  # noqa: S301
    assert repr(rule).startswith("Method(utility=")


@each
@pytest.mark.parametrize("bias", [True, False])
def test_a_method_replaces_units_and_keeps_the_network_finite(make, bias):
    torch.manual_seed(0)
    model = mlp(4, 12, 12, 2, bias=bias)
    replacer = run(make(**EAGER[make.__name__]), model)
    assert sum(ages.replaced for ages in replacer.ages) > 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@each
def test_a_method_makes_the_optimizer_forget_the_units_it_replaces_and_no_others(make):
    torch.manual_seed(0)
    model = mlp(4, 12, 12, 2)
    optimizer, remembered = torch.optim.Adam(model.parameters(), lr=0.05), []
    with UnitReplacer(make(**EAGER[make.__name__]), groups_of(model, 4), optimizer, seed=0) as replacer:
        layers = {group.name: group.incoming[0].tensor for group in replacer.groups}

        def look(event):
            state, replaced = optimizer.state[layers[event.group]], torch.zeros(12, dtype=torch.bool)
            replaced[list(event.units)] = True
            assert all(state[key][replaced].eq(0).all() for key in ("exp_avg", "exp_avg_sq"))
            remembered.extend(state["exp_avg_sq"][~replaced].abs().sum(1).tolist())

        replacer.listeners.append(look)
        train(model, optimizer, torch.randn(40, 4, 4, dtype=torch.float64), target=lambda x: x[:, :2].sin())
    assert max(remembered) > 0


@each
def test_a_method_with_named_initialiser_and_optimizer_policy_hands_them_on(make):
    rule = make(initializer="orthogonal", optimizer_state="keep")
    assert rule.edits[0].initializer == "orthogonal"
    assert rule.optimizer_state == "keep"


@pytest.mark.parametrize(
    ("rule", "idle"),
    [
        (continual_backprop(0.0, 0), True),
        (random_replacement(0.0, 0), True),
        (redo(-1.0, 1), True),
        (regrama(-1.0, 1), True),
        (self_normalized_resets(-1.0), True),
    ],
)
def test_a_method_that_replaces_nothing_leaves_training_bit_for_bit_as_it_is(rule, idle):
    torch.manual_seed(0)
    model = mlp(4, 6, 6, 2)
    twin = copy.deepcopy(model)
    run(rule, model)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.05)
    data = torch.Generator().manual_seed(0)
    train(
        twin,
        optimizer,
        [torch.randn(4, 4, dtype=torch.float64, generator=data) for _ in range(40)],
        target=lambda x: x[:, :2].sin(),
    )
    assert idle == all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_redo_revives_a_layer_that_is_silent_as_a_whole():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    replacer = run(redo(0.0, every_n_steps=10), model, steps=10)
    assert replacer.ages[0].replaced == 6
    assert model[:2](torch.randn(50, 4, dtype=torch.float64)).gt(0).any(0).sum() >= 5


def test_redo_works_on_layers_of_different_width_and_on_maps():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 2)
    ).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(redo(0.9, 3), groups_of(model, 1, 3, 3), optimizer, seed=0) as replacer:
        train(model, optimizer, torch.randn(3, 8, 1, 3, 3, dtype=torch.float64))
    assert all(0 < ages.replaced < group.size for ages, group in zip(replacer.ages, replacer.groups, strict=True))


def test_a_unit_that_regrama_has_just_replaced_is_not_replaced_again_for_want_of_a_gradient():
    torch.manual_seed(0)
    model = mlp(4, 6, 2, activation=nn.Tanh)
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0
        model[2].weight.grad = None
    replacer = run(regrama(0.0, every_n_steps=2), model, steps=8)
    assert replacer.ages[0].replaced <= 1
    assert isinstance(replacer.method.selection, AtMost)


def test_self_normalized_resets_replaces_a_unit_that_died_and_no_unit_that_fires():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    with torch.no_grad():
        model[0].bias[:] = 10.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule = self_normalized_resets(0.02, prior_weight=10.0)
    chosen = []
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        replacer.listeners.append(lambda event: chosen.append(event.units))
        train(model, optimizer, torch.randn(60, 8, 4, dtype=torch.float64))
        assert chosen == []
        with torch.no_grad():
            model[0].bias[3] = -100.0
        train(model, optimizer, torch.randn(3, 8, 4, dtype=torch.float64))
    assert [list(units) for units in chosen] == [[3]]


def test_random_replacement_takes_as_many_units_in_the_same_steps_as_continual_backprop():
    counts = []
    for make in (continual_backprop, random_replacement):
        torch.manual_seed(0)
        replacer = run(make(0.03, 5), mlp(4, 9, 7, 2))
        counts.append([(ages.step, ages.carry, ages.replaced) for ages in replacer.ages])
    assert counts[0] == counts[1]
    assert counts[0][0][2] > 0


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: continual_backprop(2.0), "replacement_rate=2.0"),
        (lambda: continual_backprop(maturity_threshold=-1), "maturity_threshold=-1"),
        (lambda: continual_backprop(decay_rate=1.0), "decay_rate=1.0"),
        (lambda: continual_backprop(initializer="he"), "initializer='he'"),
        (lambda: redo(every_n_steps=0), "every_n_steps=0"),
        (lambda: redo(float("nan")), "threshold=nan"),
        (lambda: regrama(every_n_steps=True), "every_n_steps=True"),
        (lambda: self_normalized_resets(firing_threshold=-1.0), "firing_threshold=-1.0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(make, argument):
    with pytest.raises(InvalidArgumentError, match=argument):
        make()
