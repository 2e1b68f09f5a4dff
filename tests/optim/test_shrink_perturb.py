"""Weights shrink and get noise; what is frozen, and whatever else the layers hold, stays."""

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.optim import ShrinkPerturb
from lightning_plasticity.optim.noise import NoiseSource


def test_weights_shrink_and_get_gaussian_noise():
    model = nn.Linear(4, 3).double()
    before = [p.detach().clone() for p in model.parameters()]
    ShrinkPerturb(model, shrink=0.4, noise_std=0.3, seed=1)()
    source = NoiseSource(seed=1)
    for parameter_, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter_.detach(), 0.4 * old + source.draw(old, 0.3), rtol=1e-12, atol=1e-15)


def test_noise_from_a_fresh_initialisation_leaves_buffers_and_random_numbers_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    nn.init.constant_(model[1].running_mean, 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    ShrinkPerturb(model, shrink=0.0, noise_std=0.5, noise="initialization", seed=1)()
    assert torch.get_rng_state().equal(state)
    assert model[1].running_mean.equal(before["1.running_mean"])
    assert model[1].weight.eq(0.5).all()  # a fresh scale is 1
    assert 0 < model[0].weight.abs().max() <= 0.25  # within half of the bound of a fresh layer
    assert not model[0].weight.equal(0.5 * before["0.weight"])


def test_only_the_chosen_parameters_are_shrunk_and_no_noise_is_no_noise():
    model = nn.Linear(4, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    ShrinkPerturb(model, shrink=0.5, noise_std=0.0, parameters=[model.weight])()
    assert model.weight.equal(0.5 * weight)
    assert model.bias.equal(bias)


def test_the_noise_goes_on_where_it_was_saved():
    model = nn.Linear(4, 3)
    first = ShrinkPerturb(model, seed=1)
    first()
    second = ShrinkPerturb(model, seed=2)
    second.load_state_dict(first.state_dict())
    assert first.source.draw(torch.zeros(5), 1.0).equal(second.source.draw(torch.zeros(5), 1.0))


def test_layers_that_cannot_initialise_themselves_are_refused_by_name():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(2, 2), nn.ParameterList([torch.ones(2)])

    with pytest.raises(UnsupportedModelError, match=r"layers \['scale'\].*`reset_parameters`.*noise='gaussian'"):
        ShrinkPerturb(Raw(), noise="initialization")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("shrink", 1.5, r"in \[0, 1\]"), ("noise_std", -1.0, r"in \[0, inf\)"), ("noise", "uniform", "'initialization'")],
)
def test_values_of_shrinking_out_of_range_are_refused(name, value, expected):
    with pytest.raises(InvalidArgumentError, match=rf"{name}={value!r}.*{expected}"):
        ShrinkPerturb(nn.Linear(2, 2), **{name: value})


@pytest.mark.parametrize("noise", ["gaussian", "initialization"])
def test_frozen_weights_are_neither_shrunk_nor_perturbed(noise):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    ShrinkPerturb(model, shrink=0.5, noise_std=0.1, noise=noise)()
    stayed = [torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True)]
    assert stayed == [True, True, False, False]


def test_what_is_no_model_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"model of type list.*an nn.Module"):
        ShrinkPerturb([torch.zeros(1)])


def test_what_holds_no_parameters_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"parameters with 'b' among them.*None takes all"):
        ShrinkPerturb(nn.Linear(2, 2), parameters="bias")
