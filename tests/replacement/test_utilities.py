"""What a unit is worth, in the cases that the equations do not speak of."""

from __future__ import annotations

import copy
import pickle  # noqa: S403 - our own objects

import pytest
import torch
from support.small_nets import groups_of, method, mlp, train
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
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
    MeanActivation,
    Random,
    UnitReplacer,
    Utility,
    WeightMagnitude,
    ZeroContribution,
)

TRACES = [
    Contribution,
    ZeroContribution,
    AdaptableContribution,
    DeviationByInput,
    ActivationOnly,
    Adaptation,
    WeightMagnitude,
    GradientUtility,
    Fisher,
]
ALL = [*TRACES, Dormancy, GradientMagnitude, InterFiringTime, Random]
NEVER = AtMost(-1.0)  # makes no decision that replaces anything

name = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
trace = pytest.mark.parametrize("make", TRACES, ids=lambda make: make.__name__)


def watched(model, utility, batches, *, selection=None, lr=0.0, shape=(4,), every_n_steps=10**6):
    """Train under the watch of a utility and return the replacer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    rule = method(selection or NEVER, utility=utility, every_n_steps=every_n_steps)
    with UnitReplacer(rule, groups_of(model, *shape), optimizer, seed=0) as replacer:
        train(model, optimizer, batches)
    return replacer


def scores(replacer, position=0):
    group, age = replacer.groups[position], replacer.ages[position].age.double()
    generator = torch.Generator().manual_seed(0)
    return replacer.method.utility.score(replacer.memory.parts[position], group, age, generator)


def batches(count=5, size=6, features=4, seed=0):
    return torch.randn(count, size, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@name
def test_a_utility_is_plain_data(make):
    utility = make()
    assert isinstance(utility, Utility)
    assert pickle.loads(pickle.dumps(utility)) == utility == copy.deepcopy(utility)  # noqa: S301
    assert repr(utility).startswith(make.__name__)


@name
@pytest.mark.parametrize("bias", [True, False])
def test_scores_are_finite_for_silent_units_a_single_unit_a_batch_of_one_and_no_bias(make, bias):
    torch.manual_seed(0)
    model = mlp(4, 3, 1, 2, bias=bias)
    with torch.no_grad():
        model[0].weight[1] = 0.0
    replacer = watched(model, make(), batches(size=1), shape=(4,))
    assert all(scores(replacer, i).isfinite().all() for i in range(2))


@name
def test_only_training_passes_with_gradients_are_measured(make):
    torch.manual_seed(0)
    model = mlp(4, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(method(NEVER, utility=make()), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, batches())
        before = copy.deepcopy(replacer.memory.parts)
        model.eval()(batches()[0]).sum().backward()
        with torch.no_grad():
            model.train()(batches()[0])
        assert all(torch.equal(replacer.memory.parts[0][key], value) for key, value in before[0].items())


@trace
def test_units_of_different_ages_that_do_the_same_score_the_same(make):
    # A unit replaced half-way by an equal one must not look weaker: a running average that starts at 0 is corrected.
    torch.manual_seed(0)
    model = mlp(4, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = batches(1).expand(8, -1, -1)
    with UnitReplacer(method(NEVER, utility=make(0.9)), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, x)
        old = scores(replacer)
        replacer.memory.renew(0, torch.tensor([2]))
        replacer.ages[0].renew(torch.tensor([2]))
        train(model, optimizer, x[:2])
    torch.testing.assert_close(scores(replacer), old, rtol=1e-12, atol=0)


@trace
def test_a_running_utility_forgets_what_a_unit_did_long_ago(make):
    torch.manual_seed(0)
    model = mlp(4, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loud, quiet = batches(20) * 100, batches(60, seed=1)
    with UnitReplacer(method(NEVER, utility=make(0.5)), groups_of(model, 4), optimizer, seed=0) as replacer:
        train(model, optimizer, [*loud, *quiet])
    fresh = watched(model, make(0.5), quiet)
    torch.testing.assert_close(scores(replacer), scores(fresh), rtol=1e-6, atol=0)


@name
def test_the_order_of_the_samples_in_a_batch_does_not_matter(make):
    torch.manual_seed(0)
    model, x = mlp(4, 5, 2), batches()
    shuffled = x.new_empty(x.shape)
    for batch, other in zip(x, shuffled, strict=True):
        other.copy_(batch[torch.randperm(len(batch))])
    in_order = watched(copy.deepcopy(model), make(), x)
    torch.testing.assert_close(scores(watched(model, make(), shuffled)), scores(in_order), rtol=1e-12, atol=0)


@pytest.mark.parametrize("features", [1, 4])
def test_the_running_contribution_is_a_mean_of_products_and_not_a_product_of_means(features):
    # The unit is read weakly while it is loud, and strongly while it is quiet.
    writer = nn.Linear(4, 2) if features == 1 else nn.Conv2d(1, 2, 1)
    model = nn.Sequential(writer, nn.ReLU(), nn.Flatten(), nn.Linear(2 * features, 2)).double()
    shape = (4,) if features == 1 else (1, 2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule = method(NEVER, utility=Contribution(0.5))
    x = torch.ones(3, *shape, dtype=torch.float64)
    with UnitReplacer(rule, groups_of(model, *shape), optimizer, seed=0) as replacer:
        for loudness, weight in ((8.0, 0.25), (2.0, 3.0)):
            with torch.no_grad():
                writer.weight.zero_()
                writer.bias.fill_(loudness)
                model[3].weight.fill_(weight)
            train(model, optimizer, [x])
    assert scores(replacer).tolist() == pytest.approx([(0.25 * 8.0 * 0.25 + 0.5 * 2.0 * 3.0) / 0.75] * 2, rel=1e-12)


@trace
@pytest.mark.parametrize("decay_rate", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_of_its_range_is_refused(make, decay_rate):
    with pytest.raises(InvalidArgumentError, match=r"decay_rate=.*\[0, 1\).*0.99 as in the paper"):
        make(decay_rate)


def test_the_mean_activation_checks_its_decay_too():
    with pytest.raises(InvalidArgumentError, match="decay_rate=1"):
        MeanActivation(1)


@pytest.mark.parametrize("make", [Contribution, ActivationOnly, GradientUtility, Fisher, Dormancy, GradientMagnitude])
def test_micro_batches_measure_what_the_whole_batch_measures_also_if_they_differ_in_size(make):
    torch.manual_seed(0)
    model, x = mlp(4, 5, 2), batches(1, 9)[0]
    whole, parts = (
        UnitReplacer(method(NEVER, utility=make()), groups_of(net, 4), torch.optim.SGD(net.parameters(), 0.0), seed=0)
        for net in (model, copy.deepcopy(model))
    )
    for replacer, sizes in ((whole, [9]), (parts, [2, 6, 1])):
        net = replacer.groups[0].incoming[0].module, replacer.groups[0].outgoing[0].module
        with replacer:
            for part in x.split(sizes):
                loss = net[1](net[0](part).relu()).square().sum() / 9
                loss.backward()
            replacer.optimizers[0].step()
    torch.testing.assert_close(scores(parts), scores(whole), rtol=1e-12, atol=0)


def test_with_micro_batches_the_deviation_is_from_the_mean_so_far():
    model, (first, second) = mlp(4, 3, 2), batches(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with UnitReplacer(method(NEVER, utility=DeviationByInput(0.9)), groups_of(model, 4), optimizer) as replacer:
        for part in (first, second):
            (model(part).sum() / 2).backward()
        optimizer.step()
    h = [model[:2](part).detach() for part in (first, second)]
    means = [h[0].mean(0), torch.cat(h).mean(0)]  # the running mean of one step, corrected: the mean of that step
    deviation = torch.cat([(a - m).abs() for a, m in zip(h, means, strict=True)]).mean(0)
    torch.testing.assert_close(scores(replacer), deviation / model[0].weight.abs().mean(1), rtol=1e-12, atol=0)


def test_a_unit_that_always_gives_the_same_has_no_deviation():
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 3.0
    values = scores(watched(model, ZeroContribution(), batches()))
    assert values[1].abs().item() < 1e-12 < values[[0, 2]].max().item()


@pytest.mark.parametrize("make", [GradientUtility, Fisher])
def test_a_unit_without_influence_on_the_loss_has_no_gradient_utility(make):
    torch.manual_seed(0)
    model = mlp(4, 3, 2, activation=nn.Tanh)
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0
    values = scores(watched(model, make(), batches()))
    assert values[1].item() == 0
    assert (values[[0, 2]] > 0).all()


def test_the_gradient_utility_is_the_first_order_change_of_the_loss_without_the_unit():
    torch.manual_seed(0)
    model, x = mlp(4, 3, 1, activation=nn.Tanh), batches(1)
    values = scores(watched(model, GradientUtility(0.0), x))
    h = model[:2](x[0]).detach()
    for unit in range(3):
        without = h.clone()
        without[:, unit] *= 1 - 1e-6
        change = (model[2](h).square() - model[2](without).square()).abs().mean() / 1e-6
        assert values[unit].item() == pytest.approx(change.item(), rel=1e-4)


def test_incoming_weights_of_zero_give_a_large_but_finite_adaptation():
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight[1] = 0.0
    values = scores(watched(model, Adaptation(), batches()))
    assert values.isfinite().all()
    assert values.argmax().item() == 1


@pytest.mark.parametrize("make", [Dormancy, GradientMagnitude])
def test_a_layer_that_is_silent_as_a_whole_is_dormant_as_a_whole(make):
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:], model[2].weight[:] = 0.0, 0.0, 0.0
    assert scores(watched(model, make(), batches())).tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", [Dormancy, GradientMagnitude])
def test_relative_scores_start_anew_after_every_decision(make):
    torch.manual_seed(0)
    model = mlp(4, 5, 2, activation=nn.Tanh)
    first, second = batches(6) * 3, batches(6, seed=1)
    replacer = watched(model, make(), [*first, *second[:5]], every_n_steps=6)
    torch.testing.assert_close(scores(replacer), scores(watched(model, make(), second[:5])), rtol=1e-12, atol=0)


def test_a_broken_unit_is_replaced_and_does_not_hide_the_dormant_ones():
    model = mlp(4, 4, 2, activation=nn.Identity)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.0
        model[0].bias[3] = float("nan")
    replacer = watched(model, Dormancy(), batches(1))
    units = AtMost(0.01).choose(scores(replacer), 4, replacer.ages[0], torch.Generator())
    assert units.tolist() == [3, 1]


def firing(model_steps):
    """Scores of units that fire (1) or not (0) as in ``model_steps [T, U]``, and the replacer."""
    pattern = torch.tensor(model_steps, dtype=torch.float64)
    size = pattern.shape[1]
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(size))
        model[0].bias.zero_()
    return scores(watched(model, InterFiringTime(prior_weight=10), pattern[:, None], shape=(size,)))


def test_the_score_of_a_silent_unit_is_the_share_of_longer_silences_in_its_own_past_and_its_layers():
    # Unit 0 fires every step, unit 1 every third step, unit 2 fired after 1, 2 and 6 steps and is silent for 3.
    steps = [[1, t % 3 == 2, t in {0, 2, 8}] for t in range(12)]
    everyone = [1] * 12 + [3] * 4 + [1, 2, 6]
    expected = (1 + 10 * sum(gap > 3 for gap in everyone) / len(everyone)) / (3 + 10)
    assert firing(steps).tolist() == pytest.approx([1.0, 1.0, expected], rel=1e-12)


def test_a_unit_that_never_fired_is_judged_by_its_layer_and_nobody_before_anything_fired():
    steps = [[1, 0] for _ in range(5)]
    assert firing(steps).tolist() == [1.0, 0.0]
    assert firing([[0, 0]] * 5).tolist() == [1.0, 1.0]


def test_silences_beyond_all_bins_stay_the_longest():
    utility = InterFiringTime()
    fields = utility.fields()
    state = {"silence": torch.tensor([1e9, 3.0]), "times": torch.zeros(2, fields["times"].width)}
    state["times"][:, 0] = 5.0
    model = mlp(4, 2, 1)
    (group,) = groups_of(model, 4)
    assert utility.score(state, group, torch.ones(2), torch.Generator()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_firing_threshold_that_is_no_magnitude_is_refused(threshold):
    with pytest.raises(InvalidArgumentError, match="firing_threshold="):
        InterFiringTime(firing_threshold=threshold)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_prior_without_weight_is_refused(weight):
    with pytest.raises(InvalidArgumentError, match="prior_weight="):
        InterFiringTime(prior_weight=weight)


def test_random_scores_follow_the_engines_generator_and_differ_between_decisions():
    model = mlp(4, 9, 2)
    (group,) = groups_of(model, 4)
    draws = [
        [Random().score({}, group, torch.ones(9), generator) for _ in range(2)]
        for generator in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    ]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[0][1])


@name
def test_maps_and_half_precision_are_measured(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).to(torch.bfloat16)
    x = torch.randn(3, 6, 1, 3, 3, dtype=torch.bfloat16)
    replacer = watched(model, make(), x, shape=(1, 3, 3))
    assert scores(replacer).isfinite().all()
    assert all(value.dtype != torch.bfloat16 for value in replacer.memory.parts[0].values())
