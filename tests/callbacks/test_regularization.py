import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.regularization import (
    L1Regularization,
    L2Regularization,
    RegenerativeRegularization,
    ShrinkAndPerturb,
)
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.optim.regularization import Decay
from lightning_plasticity.optim.shrink_perturb import ShrinkPerturb
from lightning_plasticity.streams import StreamDataModule

DATA = TensorDataset(
    torch.randn(12, 3, generator=torch.Generator().manual_seed(1)),
    torch.randn(12, 2, generator=torch.Generator().manual_seed(2)),
)


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(module, *callbacks, ckpt_path=None, datamodule=None, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    trainer = pl.Trainer(callbacks=list(callbacks), **(quiet | arguments))
    if datamodule is None:
        trainer.fit(module, DataLoader(DATA, batch_size=4), ckpt_path=ckpt_path)
    else:
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return trainer


def bare(epochs, after_step=lambda step: None, before_epoch=lambda epoch: None, attach=lambda optimizer: None):
    module = Regression()
    optimizer, step = module.configure_optimizers(), 0
    attach(optimizer)
    for epoch in range(epochs):
        before_epoch(module, epoch)
        for x, y in DataLoader(DATA, batch_size=4):
            optimizer.zero_grad()
            module.training_step((x, y), 0).backward()
            optimizer.step()
            step += 1
            after_step(module, step)
    return module


def nothing(module, count):
    pass


def equal(one, other):
    return all(p.equal(q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("callback", "settings"),
    [
        (L2Regularization, {}),
        (L1Regularization, {"norm": 1}),
        (RegenerativeRegularization, {"toward": "initial"}),
    ],
)
def test_decays_act_as_in_a_bare_loop(callback, settings):
    module = Regression()
    trainer = fit(module, callback(0.5))
    expected = bare(2, nothing, nothing, lambda optimizer: Decay(optimizer, 0.5, **settings).attach())
    assert equal(module, expected)
    assert not equal(module, bare(2, nothing, nothing))
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_patterns_choose_what_decays():
    module = Regression()
    fit(module, L2Regularization(0.5, include=["*.weight"], exclude=["net.2.*"]))

    def chosen(optimizer):
        Decay(optimizer, 0.5, parameters=optimizer.param_groups[0]["params"][:1]).attach()

    assert equal(module, bare(2, nothing, nothing, chosen))


def test_the_first_weights_stay_the_target_in_further_fits_and_after_a_resume(tmp_path):
    module, callback = Regression(), RegenerativeRegularization(0.5)
    first = [p.detach().clone() for p in module.parameters()]
    fit(module, callback, max_epochs=1)
    fit(module, callback, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    again, other = RegenerativeRegularization(0.5), Regression()
    fit(other, again, max_epochs=2, ckpt_path=tmp_path / "a.ckpt")
    for each in (callback, again):
        assert all(a.equal(b) for a, b in zip(each.decays[0].initial.values(), first, strict=True))


def test_weights_are_shrunk_and_perturbed_as_every_epoch_but_the_first_begins():
    module = Regression()
    fit(module, ShrinkAndPerturb(0.5, 0.1, every="epoch", seed=3), max_epochs=3)
    engines = []

    def begin(net, epoch):
        if not epoch:
            engines.append(ShrinkPerturb(net, shrink=0.5, noise_std=0.1, seed=3))
        else:
            engines[0]()

    assert equal(module, bare(3, nothing, begin))


def test_weights_are_shrunk_and_perturbed_every_few_steps():
    module = Regression()
    fit(module, ShrinkAndPerturb(0.5, 0.1, every="step", every_n_steps=2, seed=3))
    engines = []

    def act(net, step):
        if step == 1:
            engines.append(ShrinkPerturb(net, shrink=0.5, noise_std=0.1, seed=3))
        if step % 2 == 0:
            engines[0]()

    assert equal(module, bare(2, act, nothing))


class Norms(pl.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.values.append(float(pl_module.net[0].weight.detach().norm()))


def test_every_experience_but_the_first_begins_with_it():
    stream, norms, module = [DATA] * 3, Norms(), Regression()
    data = StreamDataModule(stream, epochs_per_experience=2, batch_size=4)
    fit(module, ShrinkAndPerturb(0.0, 0.0), norms, datamodule=data, max_epochs=6)
    assert [value == 0 for value in norms.values] == [False, False, True, False, True, False]


def test_every_further_fit_begins_with_it_but_not_a_resumed_one(tmp_path):
    module, norms, callback = Regression(), Norms(), ShrinkAndPerturb(1e-6, 0.0, every="fit")
    fit(module, callback, norms, max_epochs=1)
    fit(module, callback, norms, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    fit(Regression(), ShrinkAndPerturb(1e-6, 0.0, every="fit"), norms, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert [value < 1e-5 for value in norms.values] == [False, True, False]


@pytest.mark.parametrize("noise", ["gaussian", "initialization"])
def test_a_resumed_fit_equals_an_uninterrupted_one(noise, tmp_path):
    settings = {"shrink": 0.5, "noise_std": 0.1, "noise": noise, "every": "step", "every_n_steps": 2}
    whole = Regression()
    fit(whole, ShrinkAndPerturb(**settings, seed=3))
    fit(Regression(), ShrinkAndPerturb(**settings, seed=3), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    resumed = Regression()
    fit(resumed, ShrinkAndPerturb(**settings, seed=9), ckpt_path=tmp_path / "a.ckpt")
    assert equal(whole, resumed)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("shrink", 2.0, r"in \[0, 1\]"),
        ("noise_std", -1.0, r"in \[0, inf\)"),
        ("noise", "uniform", "'gaussian'"),
        ("every", "year", "'experience'"),
        ("every_n_steps", 0, r"in \[1, inf\)"),
    ],
)
def test_values_out_of_range_are_refused(name, value, expected):
    with pytest.raises(InvalidArgumentError, match=rf"{name}={value!r}.*{expected}"):
        ShrinkAndPerturb(**{name: value})


def test_a_negative_strength_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"strength=-1.*in \[0, inf\)"):
        L2Regularization(-1)


@pytest.mark.parametrize("callback", [L1Regularization, L2Regularization, RegenerativeRegularization])
def test_a_decay_without_a_strength_is_refused_under_its_own_name(callback):
    with pytest.raises(TypeError, match=rf"^{callback.__name__}.*'strength'"):
        callback()


@pytest.mark.parametrize("every", ["experience", "fit", "epoch"])
def test_a_period_of_steps_is_refused_where_no_steps_are_counted(every):
    with pytest.raises(InvalidArgumentError, match=rf"every_n_steps=5 with every='{every}'.*every='step'"):
        ShrinkAndPerturb(every=every, every_n_steps=5)


def test_a_fit_without_experiences_is_refused_before_it_begins_and_the_other_moments_are_named():
    norms = Norms()
    with pytest.raises(InvalidArgumentError, match=r"StreamDataModule.*every='fit', 'epoch' or 'step'"):
        fit(Regression(), ShrinkAndPerturb(), norms)
    assert not norms.values


@pytest.mark.parametrize(
    "callback",
    [lambda **choice: L2Regularization(0.1, **choice), lambda **choice: ShrinkAndPerturb(every="epoch", **choice)],
    ids=["L2Regularization", "ShrinkAndPerturb"],
)
def test_frozen_parameters_alone_are_named_in_a_warning(callback):
    module = Regression()
    module.net[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"has nothing to do .*: \['net.0.weight', 'net.0.bias'\] are frozen"):
        fit(module, callback(include="net.0.*"))
    fit(module, callback())  # some are trained: no warning
