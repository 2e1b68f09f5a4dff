"""BackPACK behind the curvature protocol, and as an oracle of HesScale."""

import builtins

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.optim import UPGD, HesScale, SampledGaussNewton

X, LABELS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(8) % 3


def mlp(activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 7), activation(), nn.Linear(7, 5), activation(), nn.Linear(5, 3)).double()


def sampled(model, loss, samples=1, seed=0, factor=1.0, scale=1.0):
    source = SampledGaussNewton(model, loss, samples=samples, seed=seed)
    model.zero_grad()
    source.watch(factor * loss(model(X), LABELS), scale=scale).backward()
    source.detach()
    return {name: source.take(parameter) for name, parameter in model.named_parameters()}


def exact(model):
    """The Gauss-Newton diagonal, from the Jacobian of the logits and the Hessian of the loss."""
    values = dict(model.named_parameters())
    q = model(X).detach().softmax(1)
    middle = torch.diag_embed(q) - q[:, :, None] * q[:, None, :]
    jacobians = torch.func.jacrev(lambda v: torch.func.functional_call(model, v, (X,)))(values)
    return {
        name: torch.einsum("ncp,ncd,ndp->p", j.flatten(2), middle, j.flatten(2)).view_as(values[name]) / len(X)
        for name, j in jacobians.items()
    }


def flat(values):
    return torch.cat([value.flatten() for value in values.values()])


@pytest.fixture
def _backpack():
    pytest.importorskip("backpack")


@pytest.mark.usefixtures("_backpack")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_many_samples_come_near_the_exact_matrix(activation):
    model = mlp(activation)
    truth, rough, fine = flat(exact(model)), flat(sampled(model, nn.CrossEntropyLoss())), None
    fine = flat(sampled(model, nn.CrossEntropyLoss(), samples=3000))
    assert (fine - truth).abs().sum() / truth.abs().sum() < 0.05
    assert (rough - truth).abs().sum() / truth.abs().sum() > 0.1


@pytest.mark.usefixtures("_backpack")
def test_for_one_layer_of_squared_error_every_sample_has_the_mean_of_hesscale():
    torch.manual_seed(0)
    model, loss = nn.Sequential(nn.Linear(6, 3)).double(), nn.MSELoss()
    targets = torch.zeros(8, 3, dtype=torch.float64)
    source, hesscale = SampledGaussNewton(model, loss, samples=4000, seed=0), HesScale(model)
    source.watch(loss(model(X), targets)).backward()
    source.detach()
    model.zero_grad()
    hesscale.watch(loss(model(X), targets)).backward()
    torch.testing.assert_close(source.take(model[0].weight), hesscale.take(model[0].weight), rtol=0.15, atol=0)


@pytest.mark.usefixtures("_backpack")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU])
def test_hesscale_is_exact_in_the_last_layer_and_near_elsewhere_by_backpacks_diagonal(activation):
    from backpack import backpack, extend, extensions

    model = mlp(activation)
    hesscale = HesScale(model)
    hesscale.watch(functional.cross_entropy(model(X), LABELS)).backward()
    ours = {name: hesscale.take(p) for name, p in model.named_parameters()}
    loss = extend(nn.CrossEntropyLoss())
    with pytest.warns(UserWarning, match="Full backward hook"), backpack(extensions.DiagHessian()):
        loss(extend(model)(X), LABELS).backward()
    theirs = {name: p.diag_h for name, p in model.named_parameters()}
    for name in ("4.weight", "4.bias"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-15)
    assert (flat(ours) - flat(theirs)).abs().sum() / flat(theirs).abs().sum() < 0.3


@pytest.mark.usefixtures("_backpack")
def test_factors_of_the_loss_are_kept_and_that_of_a_scaler_is_taken_out():
    model = mlp()
    once = flat(sampled(model, nn.CrossEntropyLoss()))
    torch.testing.assert_close(flat(sampled(model, nn.CrossEntropyLoss(), factor=0.5)), 0.5 * once)
    torch.testing.assert_close(flat(sampled(model, nn.CrossEntropyLoss(), factor=1024.0, scale=1024.0)), once)


@pytest.mark.usefixtures("_backpack")
def test_passes_add_up_the_users_random_numbers_stay_and_nothing_is_left():
    model, loss = mlp(), nn.CrossEntropyLoss()
    before = torch.get_rng_state()
    source = SampledGaussNewton(model, loss, seed=0)
    single = []
    for _ in range(2):
        source.watch(loss(model(X), LABELS)).backward()
        single.append(source._diagonal[model[0].weight].clone())
    assert torch.get_rng_state().equal(before)
    assert not single[0].equal(single[1] - single[0])
    assert not any("diag_ggn_mc" in vars(p) for p in model.parameters())
    source.watch(loss(model(X), LABELS))
    source.detach()
    for module in (*model, loss):
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert "output" not in vars(module)


@pytest.mark.usefixtures("_backpack")
def test_upgd_takes_its_second_order_utilities_from_it():
    model, loss = mlp(), nn.CrossEntropyLoss()
    expected = sampled(model, loss, seed=3)["0.weight"]
    source = SampledGaussNewton(model, loss, seed=3)
    optimizer = UPGD(model.parameters(), noise_std=0.0, decay_rate=0.0, curvature=source)
    model.zero_grad()
    source.watch(loss(model(X), LABELS)).backward()
    weight, gradient = model[0].weight.detach().clone(), model[0].weight.grad.clone()
    optimizer.step()
    utility = optimizer.state[model[0].weight]["utility"]
    torch.testing.assert_close(utility, -gradient * weight + 0.5 * expected * weight.square())


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x + self.inner(x))


@pytest.mark.usefixtures("_backpack")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Sum(), r"lost its way to \['inner.weight', 'inner.bias'\].*without functions or sums.*'hesscale'"),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)), r"no rule for \['1 \(LayerNorm\)'\]"),
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), r"no rule for \['1'\].*evaluation mode"),
        (
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
            r"\['1'\] work in place.*inplace=False",
        ),
    ],
)
def test_what_backpack_cannot_pass_is_refused_by_name(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        sampled(model.double(), nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(3)), "with weights.*without weights"),
        (nn.CrossEntropyLoss(ignore_index=0), "with `ignore_index`"),
        (nn.MSELoss(reduction="none"), "as a mean or a sum"),
        (nn.L1Loss(), "the loss L1Loss.*CrossEntropyLoss, MSELoss or BCEWithLogitsLoss"),
    ],
)
def test_losses_that_backpack_does_not_know_are_refused(loss, message):
    with pytest.raises(UnsupportedModelError, match=message):
        SampledGaussNewton(mlp(), loss)


def test_a_number_of_samples_below_one_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"samples=0.*in \[1, inf\)"):
        SampledGaussNewton(mlp(), nn.MSELoss(), samples=0)


def test_without_backpack_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("backpack"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidArgumentError, match=r"BackPACK is not installed.*lightning-plasticity\[curvature\]"):
        SampledGaussNewton(mlp(), nn.MSELoss())
