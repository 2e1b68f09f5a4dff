"""The mean output of a replaced unit becomes a bias of its reader."""

from __future__ import annotations

import pytest
import torch
from support.small_nets import groups_of, method, mlp, train
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import (
    AtMost,
    Contribution,
    KeepMeanOutput,
    LowestMature,
    MeanActivation,
    RedrawIncoming,
    UnitReplacer,
    ZeroOutgoing,
)

X = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def constant_unit(model, unit, value):
    """Let one unit of the first layer always answer ``value``."""
    with torch.no_grad():
        model[0].weight[unit] = 0.0
        model[0].bias[unit] = value


def step_without_learning(model, *edits, utility=None, x=X, selection=None, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    units = groups_of(model, *x.shape[1:])
    rule = method(selection or LowestMature(0.5, steps - 1), *edits, utility=utility)
    with UnitReplacer(rule, units[:1], optimizer, seed=0) as replacer:
        train(model, optimizer, [x] * steps)
    return replacer


def test_a_unit_that_always_gives_the_same_can_be_replaced_without_changing_the_function():
    torch.manual_seed(0)
    model = mlp(4, 2, 3)
    constant_unit(model, 1, 2.0)
    with torch.no_grad():
        model[2].weight[:, 1] *= 1e-3  # the lowest contribution
    before = model(X)
    replacer = step_without_learning(model, KeepMeanOutput(), RedrawIncoming(), ZeroOutgoing(), utility=Contribution())
    assert replacer.ages[0].replaced == 1
    assert model[2].weight[:, 1].eq(0).all()
    torch.testing.assert_close(model(X), before, rtol=1e-12, atol=1e-12)


def test_without_the_transfer_the_function_changes():
    torch.manual_seed(0)
    model = mlp(4, 2, 3)
    constant_unit(model, 1, 2.0)
    before = model(X)
    step_without_learning(model, RedrawIncoming(), ZeroOutgoing(), selection=AtMost(2.0, 2))
    assert (model(X) - before).abs().max() > 0.1


def test_what_is_moved_is_the_weight_times_the_running_mean_corrected_for_the_age():
    torch.manual_seed(0)
    model, decay = mlp(4, 3, 2), 0.7
    bias, weight = model[2].bias.detach().clone(), model[2].weight.detach().clone()
    batches, mean = torch.randn(4, 5, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for x in batches:
        mean = decay * mean + (1 - decay) * model[:2](x).mean(0).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule = method(AtMost(2.0, 3), KeepMeanOutput(decay), ZeroOutgoing())
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, batches)
    torch.testing.assert_close(model[2].bias, bias + weight @ (mean / (1 - decay**4)), rtol=1e-12, atol=1e-14)


def test_after_a_flatten_every_position_has_its_own_mean_and_they_are_added_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(5, 1, 3, 3, dtype=torch.float64)
    bias, moved = model[3].bias.detach().clone(), model[3].weight @ model[:3](x).mean(0)
    step_without_learning(model, KeepMeanOutput(), ZeroOutgoing(), x=x, selection=AtMost(2.0, 2))
    torch.testing.assert_close(model[3].bias, bias + moved, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_adds_up_its_kernel_so_that_a_constant_channel_is_kept_exactly(groups):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=groups)).double()
    with torch.no_grad():
        model[0].weight[:] = 0.0
        model[0].bias[:] = torch.tensor([1.0, 2.0, 3.0, 0.5])
    x = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    before = model(x)
    step_without_learning(model, KeepMeanOutput(), ZeroOutgoing(), x=x, selection=AtMost(2.0, 2))
    assert model[2].weight.eq(0).all()
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_units_of_the_reader_that_are_replaced_in_the_same_step_end_with_a_bias_of_zero():
    torch.manual_seed(0)
    model = mlp(4, 5, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule = method(AtMost(2.0, 2), KeepMeanOutput(), RedrawIncoming(), ZeroOutgoing())
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0):
        train(model, optimizer, [X] * 3)
    assert model[2].bias.eq(0).all()
    assert model[4].bias.ne(0).any()


def test_what_is_not_finite_is_not_moved():
    torch.manual_seed(0)
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[2].weight[:, 1] = float("nan")
    x = X
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rule = method(AtMost(2.0, 0), KeepMeanOutput(), ZeroOutgoing())
    with UnitReplacer(rule, groups_of(model, 4), optimizer, seed=0):
        with torch.no_grad():
            bias = model[2].bias.clone()
        model(x).nansum().backward()
        for parameter in model.parameters():
            parameter.grad.zero_()
        optimizer.step()
    assert model[2].bias.isfinite().all()
    assert not torch.equal(model[2].bias, bias)  # the other units' means were moved


def test_the_mean_is_measured_once_however_many_edits_ask_for_it():
    rule = method(AtMost(0.0), KeepMeanOutput(), KeepMeanOutput(), ZeroOutgoing(), utility=Contribution())
    assert rule.statistics == (Contribution(), MeanActivation())
    assert set(rule.fields()) >= {"utility", "mean_activation"}


def test_two_means_with_different_decay_contradict_each_other():
    with pytest.raises(InvalidArgumentError, match=r"MeanActivation\(decay_rate=0.5\) remembers \['mean_activation"):
        method(AtMost(0.0), KeepMeanOutput(), KeepMeanOutput(0.5))


def test_it_is_off_by_default():
    assert not any(isinstance(edit, KeepMeanOutput) for edit in continual_backprop().edits)
    assert isinstance(continual_backprop(keep_mean_output=True).edits[0], KeepMeanOutput)


def test_a_reader_without_a_bias_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with pytest.raises(UnsupportedModelError, match=r"units of '0' are read by '2' \(Linear\), which has no bias"):
        KeepMeanOutput().prepare(groups_of(model, 4)[0])


def test_a_transposed_convolution_is_refused_by_name_since_its_positions_read_different_entries():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3))
    with pytest.raises(UnsupportedModelError, match=r"'2' \(ConvTranspose2d\).*exactly one reader.*exclude="):
        KeepMeanOutput().prepare(groups_of(model, 1, 6, 6)[0])


def test_several_readers_are_refused_by_name():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            x = self.body(x).relu()
            return self.left(x) - self.right(x)

    with pytest.raises(UnsupportedModelError, match=r"units of 'body' are read by 2 tensors"):
        KeepMeanOutput().prepare(groups_of(Heads(), 4)[0])
