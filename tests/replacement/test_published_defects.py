"""What went wrong in published implementations of unit replacement, one sentence each.

The tests of the parts prove many more; here are those that only the whole engine can show.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.small_nets import groups_of, method, mlp, train
from torch import nn

from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import (
    AtMost,
    Contribution,
    LowestMature,
    RedrawIncoming,
    ResetNorms,
    UnitReplacer,
    ZeroOutgoing,
)
from lightning_plasticity.units import discover_units

EVERY = AtMost(2.0, 2)  # with scores by lot: every unit, in the third step
EDITS = (RedrawIncoming(), ZeroOutgoing(), ResetNorms())
X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=0.05, amsgrad=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("which", OPTIMIZERS)
def test_outgoing_weights_are_zero_after_the_step_since_replacement_follows_it(which):
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = OPTIMIZERS[which](model.parameters())
    with UnitReplacer(method(EVERY, *EDITS), groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, [X] * 3)
    assert model[2].weight.eq(0).all()


@pytest.mark.parametrize("which", OPTIMIZERS)
def test_stale_moments_do_not_move_a_new_unit(which):
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = OPTIMIZERS[which](model.parameters())
    with UnitReplacer(method(EVERY, *EDITS), groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, [X] * 3)
    fresh = model[0].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model[0].weight, fresh)
    assert model[0].bias.eq(0).all()
    assert model[2].weight.eq(0).all()


def test_gradients_of_the_step_are_those_of_the_old_units_in_all_layers():
    torch.manual_seed(0)
    model = mlp(4, 5, 5, 2)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(method(AtMost(2.0, 0), *EDITS), groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, [X])
    twin(X).square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_units_are_replaced_once_per_optimizer_step_however_many_micro_batches():
    torch.manual_seed(0)
    model = mlp(4, 10, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(method(LowestMature(0.1, 0), *EDITS), groups_of(model, 4), optimizer, seed=0) as replacer:
        for _ in range(5):
            for part in X.split(3):
                model(part).square().mean().backward()
            optimizer.step()
    assert (replacer.ages[0].step, replacer.ages[0].replaced) == (5, 5)


def test_usual_rates_replace_units_also_where_a_step_is_due_less_than_one():
    torch.manual_seed(0)
    model = mlp(4, 10, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rule = continual_backprop(replacement_rate=1e-3, maturity_threshold=0)
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 250)
    assert replacer.ages[0].replaced == 2


def test_a_unit_that_has_just_come_of_age_is_not_replaced_again_for_being_young():
    # Without the correction for the age, a unit of age 5 would have 0.05 of the utility of an equal old one.
    model = mlp(4, 4, 1, activation=nn.Identity)
    with torch.no_grad():
        model[0].weight.fill_(0.0)
        model[0].bias.copy_(torch.tensor([1.0, 1.1, 1.2, 1.3]))
        model[2].weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(
        method(LowestMature(0.0, 4), utility=Contribution()), groups_of(model, 4), optimizer, seed=0
    ) as replacer:
        train(model, optimizer, [X] * 50)
        replacer.memory.renew(0, torch.tensor([3]))
        replacer.ages[0].renew(torch.tensor([3]))
        train(model, optimizer, [X] * 5)
    score = Contribution().score(
        replacer.memory.parts[0], replacer.groups[0], replacer.ages[0].age.double(), torch.Generator()
    )
    torch.testing.assert_close(score, torch.tensor([1.0, 1.1, 1.2, 1.3], dtype=torch.float64))


def test_the_memory_of_a_replaced_unit_starts_afresh():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rule = continual_backprop(1.0, 3, keep_mean_output=True)
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 4)
    state = replacer.memory.parts[0]
    assert replacer.ages[0].age.eq(0).all()
    assert state["utility"].eq(0).all()
    assert state["mean_activation"].eq(0).all()
    assert state["mean_activation_missing"].eq(1).all()


def test_the_output_layer_is_never_replaced():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    bias = model[2].bias.detach().clone()
    with UnitReplacer(method(EVERY, *EDITS), groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, [X] * 9)
    assert torch.equal(model[2].bias, bias)


def test_the_worth_of_a_unit_is_in_what_its_reader_makes_of_it_not_in_its_own_incoming_weights():
    torch.manual_seed(0)
    model = mlp(4, 3, 2, activation=nn.Tanh)
    with torch.no_grad():
        model[0].weight[1] *= 50.0
        model[2].weight[:, 1] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(continual_backprop(0.34, 1), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 2)
    assert replacer.ages[0].age.tolist() == [2, 0, 2]


def test_nothing_is_added_to_the_model_and_batches_may_differ_in_size():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    keys, modules = list(model.state_dict()), list(model.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(continual_backprop(0.1, 1), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X, X[:5], X[:1], X])
        assert list(model.state_dict()) == keys
        assert list(model.modules()) == modules
        assert len(optimizer.param_groups[0]["params"]) == 4
    assert replacer.ages[0].step == 4


def test_an_in_place_activation_after_the_units_trains_as_without_us():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(continual_backprop(0.1, 1), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 5)
    assert replacer.ages[0].replaced > 0


@pytest.mark.parametrize("bias", [True, False])
def test_networks_without_biases_and_norms_are_treated(bias):
    torch.manual_seed(0)
    model = mlp(4, 6, 5, 2, bias=bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(continual_backprop(0.2, 1), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 8)
    assert all(ages.replaced > 0 for ages in replacer.ages)


def test_features_per_channel_are_found_per_layer_also_where_they_differ():
    torch.manual_seed(0)

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Conv2d(1, 3, 5), nn.Conv2d(1, 4, 2)
            self.read_small, self.read_large = nn.Linear(3 * 4, 2), nn.Linear(4 * 25, 2)

        def forward(self, x):
            left, right = self.small(x).relu().flatten(1), self.large(x).relu().flatten(1)
            return self.read_small(left) + self.read_large(right)

    model = Branches().double()
    groups = groups_of(model, 1, 6, 6)
    assert {group.name: group.outgoing[0].features for group in groups} == {"small": 4, "large": 25}


def test_a_restored_engine_edits_the_model_that_trains():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rule = method(EVERY, *EDITS)
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 2)
        state = replacer.state_dict()
    resumed = copy.deepcopy(model)
    other = torch.optim.SGD(resumed.parameters(), lr=0.01)
    with UnitReplacer(rule, groups_of(resumed, 4), other, seed=1) as replacer:
        replacer.load_state_dict(state)
        train(resumed, other, [X])
    assert resumed[2].weight.eq(0).all()


def test_a_resumed_run_draws_as_the_layer_was_first_drawn_and_not_as_its_trained_weights_are_spread():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    rule, optimizer = method(EVERY, *EDITS), torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        state = replacer.state_dict()
    with torch.no_grad():
        model[0].weight *= 100.0
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0) as replacer:
        replacer.load_state_dict(state)
        train(model, optimizer, [X] * 3)
    assert replacer.ages[0].replaced == 6
    assert model[0].weight.abs().max() <= 0.5  # of 4 inputs


def test_layers_are_not_compared_with_each_other():
    torch.manual_seed(0)
    model = mlp(4, 10, 10, 2)
    with torch.no_grad():
        model[4].weight *= 1e6  # every unit of the second layer is worth more than any of the first
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(continual_backprop(0.1, 1), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 6)
    assert [ages.replaced for ages in replacer.ages] == [4, 4]


def test_attaching_twice_replaces_no_more_units_than_attaching_once():
    torch.manual_seed(0)
    model = mlp(4, 10, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with UnitReplacer(method(LowestMature(0.1, 0), *EDITS), groups_of(model, 4), optimizer, seed=0) as replacer:
        replacer.attach()
        train(model, optimizer, [X] * 5)
    assert (replacer.ages[0].step, replacer.ages[0].replaced) == (5, 5)
    train(model, optimizer, [X] * 5)
    assert replacer.ages[0].step == 5


def test_a_unit_whose_weights_moments_and_utility_are_broken_is_the_first_to_go_and_works_again():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    chosen = []
    with UnitReplacer(continual_backprop(0.17, 3), groups_of(model, 4), optimizer, seed=0) as replacer:
        replacer.listeners.append(lambda event: chosen.append(event.units))
        train(model, optimizer, [X] * 3)
        state = optimizer.state
        for tensor in (state[model[0].weight]["exp_avg"], replacer.memory.parts[0]["utility"]):
            tensor[2] = float("nan")
        state[model[2].weight]["exp_avg"][:, 2] = float("inf")
        train(model, optimizer, [X])
        assert chosen == [(2,)]
        train(model, optimizer, [X] * 5)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())
    assert replacer.memory.parts[0]["utility"].isfinite().all()
    assert model[2].weight[:, 2].ne(0).all()


class Residual(nn.Module):
    """A stream of 6 channels that two blocks add to, the second behind a projection, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 6)
        self.downsample, self.inside, self.outside = nn.Linear(6, 7), nn.Linear(6, 5), nn.Linear(5, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head((self.downsample(x) + self.outside(self.inside(x).relu())).relu())


def test_only_units_with_no_reader_besides_the_zeroed_ones_are_replaced_so_skips_are_left_alone():
    torch.manual_seed(0)
    model = Residual().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = copy.deepcopy(model)
    with UnitReplacer(method(EVERY, *EDITS), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 3)
    assert [group.name for group in replacer.groups] == ["inner", "downsample", "inside"]  # the sum, read by the head
    assert [ages.replaced for ages in replacer.ages] == [5, 7, 5]
    assert torch.equal(model.stem.weight, before.stem.weight)
    assert torch.equal(model.outer.bias, before.outer.bias)
    assert model.outer.weight.eq(0).all()
    assert model.head.weight.eq(0).all()


def test_a_residual_stream_is_one_set_of_units_and_every_reader_forgets_a_replaced_one():
    torch.manual_seed(0)
    model = Residual().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    units = discover_units(model, X, residual="group").select(include=["stem"])
    with UnitReplacer(continual_backprop(0.5, 1), units, optimizer, seed=0) as replacer:
        train(model, optimizer, [X] * 2)
    replaced = replacer.ages[0].age == 0
    assert int(replaced.sum()) == replacer.ages[0].replaced == 3
    assert all(layer.bias[replaced].eq(0).all() for layer in (model.stem, model.outer))
    for reader in (model.inner, model.inside, model.downsample):
        assert reader.weight[:, replaced].eq(0).all()
        assert reader.weight[:, ~replaced].ne(0).all()
