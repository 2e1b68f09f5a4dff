import copy

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.upgd import UPGDPerturbation
from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    UnsupportedOptimizerError,
)
from lightning_plasticity.optim import UPGD, HesScale, SampledGaussNewton, UtilityGate
from lightning_plasticity.units import discover_units

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:.*does not have many workers:UserWarning",
)


def make_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))


def make_data(n=48):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 2, generator=generator)


class Regression(pl.LightningModule):
    def __init__(self, make_optimizer=None, manual=False, explode_at=None):
        super().__init__()
        self.net = make_net()
        self.make_optimizer = make_optimizer or (lambda p: torch.optim.SGD(p, lr=0.1))
        self.automatic_optimization, self.explode_at = not manual, explode_at

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        if batch_idx == self.explode_at:
            loss = loss * float("inf")
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self):
        return self.make_optimizer(self.net.parameters())


def trainer(*callbacks, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": 2, "devices": 1}
    return pl.Trainer(callbacks=list(callbacks), **(quiet | arguments))


def loader(batch_size=8):
    return DataLoader(TensorDataset(*make_data()), batch_size=batch_size)


def fit(module, *callbacks, batch_size=8, ckpt_path=None, **arguments):
    run = trainer(*callbacks, **arguments)
    run.fit(module, loader(batch_size), ckpt_path=ckpt_path)
    return run


def bare(make_optimizer, gate=None, epochs=2, batch_size=8, accumulate=1):
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    engine = gate(net, optimizer).attach() if gate is not None else None
    for _ in range(epochs):
        batches = list(zip(*(t.split(batch_size) for t in make_data()), strict=True))
        for start in range(0, len(batches), accumulate):
            optimizer.zero_grad()
            for x, y in batches[start : start + accumulate]:
                ((net(x) - y).square().mean() / accumulate).backward()
            optimizer.step()
    if engine is not None:
        engine.detach()
    return net


def equal(one, other):
    return all(p.equal(q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


SETTINGS = {"noise_std": 0.1, "decay_rate": 0.9, "seed": 3}


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("when", ["before_clipping", "after_clipping"])
def test_in_front_of_gradient_descent_it_is_upgd_to_the_bit(when, manual):
    module = Regression(manual=manual)
    fit(module, UPGDPerturbation(**SETTINGS, when=when))
    assert equal(module.net, bare(lambda p: UPGD(p, lr=0.1, **SETTINGS)))
    assert not equal(module.net, bare(lambda p: torch.optim.SGD(p, lr=0.1)))


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_any_optimizer_sees_what_the_engine_gives_it_in_a_bare_loop(per):
    def adam(parameters):
        return torch.optim.AdamW(parameters, lr=0.01)

    def gate(net, optimizer):
        units = discover_units(net, make_data()[0]) if per == "unit" else None
        return UtilityGate(optimizer, units=units, **SETTINGS)

    module = Regression(adam)
    fit(module, UPGDPerturbation(**SETTINGS, per=per))
    assert equal(module.net, bare(adam, gate))
    assert not equal(module.net, bare(adam))


def test_accumulated_batches_are_one_step():
    module = Regression()
    callback = UPGDPerturbation(**SETTINGS)
    fit(module, callback, accumulate_grad_batches=3)
    assert callback.gates[0].state_dict()["weights"][0]["step"] == 4
    assert equal(module.net, bare(lambda p: UPGD(p, lr=0.1, **SETTINGS), accumulate=3))


def test_it_acts_before_or_after_clipping():
    def clipped(order):
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        gate = UtilityGate(optimizer, **SETTINGS)
        for x, y in zip(*(t.split(8) for t in make_data()), strict=True):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            for act in order:
                if act == "gate":
                    gate.apply()
                else:
                    nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
        return net

    for when, order in (("before_clipping", ("gate", "clip")), ("after_clipping", ("clip", "gate"))):
        module = Regression()
        fit(module, UPGDPerturbation(**SETTINGS, when=when), gradient_clip_val=0.05, max_epochs=1)
        for p, q in zip(module.net.parameters(), clipped(order).parameters(), strict=True):
            torch.testing.assert_close(p, q)


class Two(pl.LightningModule):
    """Two networks, two optimizers, manual: each steps on its own loss."""

    def __init__(self):
        super().__init__()
        self.one, self.two = make_net(0), make_net(1)
        self.automatic_optimization = False
        self.example_input_array = make_data()[0]

    def forward(self, x):
        return self.one(x) + self.two(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        for net, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward((net(x) - y).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.one, self.two)]


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_every_optimizer_has_its_own_gate(per):
    module = Two()
    callback = UPGDPerturbation(**SETTINGS, per=per, include=["one.[02]*"])
    fit(module, callback)
    steps = [part["step"] for part in _memories(callback.gates[0])]
    assert steps
    assert set(steps) == {12}
    assert callback.gates[1] is None
    net = make_net(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in zip(*(t.split(8) for t in make_data()), strict=True):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    assert equal(module.two, net)
    assert not equal(module.one, bare(lambda p: torch.optim.SGD(p, lr=0.1)))


def _memories(gate):
    state = gate.state_dict()
    return [part for part in state.get("weights", []) if part] + list(state.get("units", {}).values())


def test_both_optimizers_are_gated_with_noise_of_their_own():
    callback = UPGDPerturbation(**SETTINGS)
    fit(Two(), callback)
    one, two = (gate.noise.draw(torch.zeros(9), 1.0) for gate in callback.gates)
    assert not one.equal(two)


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_a_resumed_fit_equals_an_uninterrupted_one_to_the_bit(per, tmp_path):
    ends = []
    for interrupted in (False, True):
        module = Regression(lambda p: torch.optim.Adam(p, lr=0.01))
        if interrupted:
            run = fit(module, UPGDPerturbation(**SETTINGS, per=per), max_epochs=1)
            run.save_checkpoint(tmp_path / "half.ckpt")
            torch.load(tmp_path / "half.ckpt", weights_only=True)
            module = Regression(lambda p: torch.optim.Adam(p, lr=0.01))
            fit(module, UPGDPerturbation(**(SETTINGS | {"seed": 99}), per=per), ckpt_path=tmp_path / "half.ckpt")
        else:
            fit(module, UPGDPerturbation(**SETTINGS, per=per))
        ends.append(module)
    assert equal(*ends)


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_a_further_fit_goes_on_with_the_utilities_of_the_one_before(per):
    module, callback = Regression(), UPGDPerturbation(**SETTINGS, per=per)
    fit(module, callback, max_epochs=1)
    fit(module, callback, max_epochs=1)
    assert {part["step"] for part in _memories(callback.gates[0])} == {12}
    whole = Regression()
    fit(whole, UPGDPerturbation(**SETTINGS, per=per), max_epochs=2)
    assert equal(module, whole)


def test_another_module_starts_afresh():
    callback = UPGDPerturbation(**SETTINGS)
    fit(Regression(), callback, max_epochs=1)
    fit(Regression(), callback, max_epochs=1)
    assert {part["step"] for part in _memories(callback.gates[0])} == {6}


def test_bfloat16_mixed_precision_keeps_utilities_in_single_precision():
    module, callback = Regression(), UPGDPerturbation(**SETTINGS)
    fit(module, callback, precision="bf16-mixed")
    assert all(part["utility"].dtype == torch.float32 for part in _memories(callback.gates[0]))
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("when", ["before_clipping", "after_clipping"])
def test_a_step_that_the_gradient_scaler_skips_never_happened(when):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    module, callback = Regression(explode_at=2), UPGDPerturbation(**SETTINGS, when=when)
    fit(module, callback, plugins=[plugin], max_epochs=1)
    assert {part["step"] for part in _memories(callback.gates[0])} == {5}
    assert all(p.isfinite().all() for p in module.parameters())


def test_fused_optimizers_that_unscale_by_themselves_are_refused():
    plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module = Regression(lambda p: torch.optim.Adam(p, fused=True))
    with pytest.raises(UnsupportedOptimizerError, match=r"Adam unscales the gradients itself.*16-mixed.*fused=False"):
        fit(module, UPGDPerturbation(), plugins=[plugin])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("per", ["weight", "unit"])
def test_second_order_utilities_are_those_of_a_bare_loop(per, scaled):
    def gate(net, optimizer):
        units = discover_units(net, make_data()[0]) if per == "unit" else None
        return UtilityGate(optimizer, units=units, curvature=hesscale, **SETTINGS)

    net = make_net()
    hesscale, optimizer = HesScale(net), torch.optim.SGD(net.parameters(), lr=0.1)
    with gate(net, optimizer) as engine:
        for x, y in zip(*(t.split(8) for t in make_data()), strict=True):
            for half in (slice(0, 4), slice(4, 8)):  # two micro-batches
                hesscale.watch((net(x[half]) - y[half]).square().mean() / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    module, callback = Regression(), UPGDPerturbation(**SETTINGS, per=per, curvature="hesscale")
    plugins = [pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))] if scaled else []
    fit(module, callback, batch_size=4, accumulate_grad_batches=2, max_epochs=1, plugins=plugins)
    expected, got = _memories(engine)[0]["utility"], _memories(callback.gates[0])[0]["utility"]
    if scaled:
        torch.testing.assert_close(got, expected, rtol=0.1, atol=0.02 * expected.abs().max().item())
    else:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
        first = Regression()
        fit(first, UPGDPerturbation(**SETTINGS, per=per), batch_size=4, accumulate_grad_batches=2, max_epochs=1)
        assert not equal(first, module)


class WithLoss(Regression):
    """Owns its loss as a module, as BackPACK wants it."""

    def __init__(self, make_optimizer=None):
        super().__init__(make_optimizer)
        self.loss = nn.MSELoss()

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_curvature_from_backpack_is_that_of_a_bare_loop_and_resumes_to_the_bit(per, tmp_path):
    pytest.importorskip("backpack")
    settings = SETTINGS | {"per": per, "curvature": "ggn_mc"}
    net, loss = make_net(), nn.MSELoss()
    source, optimizer = SampledGaussNewton(net, loss, seed=SETTINGS["seed"]), torch.optim.SGD(net.parameters(), lr=0.1)
    units = discover_units(net, make_data()[0]) if per == "unit" else None
    with UtilityGate(optimizer, units=units, curvature=source, **SETTINGS):
        for _ in range(2):
            for x, y in zip(*(t.split(4) for t in make_data()), strict=True):
                source.watch(loss(net(x), y)).backward()
                optimizer.step()
                optimizer.zero_grad()
    whole = WithLoss()
    fit(whole, UPGDPerturbation(**settings), batch_size=4)
    assert equal(whole.net, net)
    fit(WithLoss(), UPGDPerturbation(**settings), batch_size=4, max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    resumed = WithLoss()
    fit(resumed, UPGDPerturbation(**(settings | {"seed": 99})), batch_size=4, ckpt_path=tmp_path / "half.ckpt")
    assert equal(resumed, whole)
    assert not any(m._forward_hooks or m._backward_hooks for m in whole.modules())
    first = WithLoss()
    fit(first, UPGDPerturbation(**SETTINGS, per=per), batch_size=4)
    assert not equal(first, whole)


def test_backpack_needs_the_loss_to_be_a_module():
    pytest.importorskip("backpack")
    with pytest.raises(UnsupportedModelError, match=r"Regression with the loss modules \[\].*self.loss = nn.Cross"):
        fit(Regression(), UPGDPerturbation(curvature="ggn_mc"))


def test_nothing_is_left_on_model_and_optimizer_after_the_fit():
    module = Regression()
    run = fit(module, UPGDPerturbation(**SETTINGS, per="unit", when="after_clipping"))
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in run.optimizers)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_without_noise_and_utility_training_is_as_without_us():
    module, plain = Regression(), Regression()
    fit(module, UPGDPerturbation(noise_std=0.0, scaling="none"))
    fit(plain)
    assert equal(module, plain)


def test_the_share_of_weights_that_are_treated_alike_is_logged(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(Regression(), UPGDPerturbation(**SETTINGS), logger=logger, log_every_n_steps=1)
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    assert "upgd/neutral/net.4.weight" in text
    assert text.splitlines()[1].split(",")[text.splitlines()[0].split(",").index("step")] == "0"  # as Lightning counts


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_what_is_logged_can_be_monitored_also_without_a_logger(per):
    run = fit(Regression(), UPGDPerturbation(**SETTINGS, per=per), log_every_n_steps=4)
    names = {"net.0", "net.2"} if per == "unit" else set(dict(Regression().named_parameters()))
    shares = {name: value for name, value in run.callback_metrics.items() if name.startswith("upgd/neutral/")}
    assert shares.keys() == {f"upgd/neutral/{name}" for name in names}
    assert all(0 <= value <= 1 for value in shares.values())
    assert not any(name.startswith("upgd") for name in run.logged_metrics)  # loggers have it already


def test_nothing_is_logged_by_a_trainer_that_never_logs():
    run = fit(Regression(), UPGDPerturbation(**SETTINGS), log_every_n_steps=0)
    assert not run.callback_metrics


def test_patterns_choose_parameters():
    module, callback = Regression(), UPGDPerturbation(**SETTINGS, include=["net.*.weight"], exclude=["net.4.*"])
    fit(module, callback, max_epochs=1)
    assert [bool(part) for part in callback.gates[0].state_dict()["weights"]] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_the_callback_can_be_copied_and_described():
    callback = copy.deepcopy(UPGDPerturbation(**SETTINGS))
    assert callback.settings == UPGDPerturbation(**SETTINGS).settings
    assert UPGDPerturbation(per="unit").state_key != UPGDPerturbation().state_key


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("per", "layer", "'weight' or 'unit'"),
        ("when", "never", "'before_clipping' or 'after_clipping'"),
        ("curvature", "hutchinson", "'hesscale', 'ggn_mc' or None"),
        ("noise_std", -1.0, r"in \[0, inf\)"),
        ("protecting", "no", "True or False"),
    ],
)
def test_values_out_of_range_are_refused(name, value, expected):
    with pytest.raises(InvalidArgumentError, match=rf"{name}={value!r}.*{expected}"):
        UPGDPerturbation(**{name: value})


@pytest.mark.parametrize("when", ["before_clipping", "after_clipping"])
def test_a_module_that_trains_with_upgd_is_not_gated_twice(when):
    with pytest.raises(UnsupportedOptimizerError, match=r"UPGD behind another gate.*Drop the .*UPGDPerturbation"):
        fit(Regression(lambda p: UPGD(p, lr=0.1)), UPGDPerturbation(when=when))


@pytest.mark.parametrize("when", ["before_clipping", "after_clipping"])
@pytest.mark.parametrize(
    "second", [UPGDPerturbation(0.0, per="unit"), UPGDPerturbation(0.0, include="net.0.*")], ids=["units", "overlap"]
)
def test_two_callbacks_that_gate_the_same_parameters_are_refused(second, when):
    with pytest.raises(UnsupportedOptimizerError, match="two gates in front of SGD"):
        fit(Regression(), UPGDPerturbation(0.0, when=when), copy.copy(second))


def test_a_callback_beside_a_gate_that_the_module_has_attached_is_refused():
    def gated(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        UtilityGate(optimizer).attach()
        return optimizer

    with pytest.raises(UnsupportedOptimizerError, match="two gates in front of SGD"):
        fit(Regression(gated), UPGDPerturbation(0.0))


def test_two_callbacks_may_gate_different_parameters():
    fit(Regression(), UPGDPerturbation(0.0, include="net.0.*"), UPGDPerturbation(0.0, include="net.2.*"))


@pytest.mark.parametrize("patterns", [{"exclude": "*"}, {"include": "net.0.*", "exclude": "net.*"}], ids=str)
def test_patterns_that_leave_nothing_are_refused(patterns):
    with pytest.raises(InvalidArgumentError, match="which leave no parameter"):
        fit(Regression(), UPGDPerturbation(0.0, **patterns))


def test_a_pattern_without_a_parameter_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"pattern 'head' in `include` matches no parameter.*'net.0.weight'"):
        fit(Regression(), UPGDPerturbation(include=["head"]))


class Head(Regression):
    """Has an optimizer for the last layer only; the others may be frozen."""

    def __init__(self, frozen=()):
        super().__init__()
        for layer in frozen:
            self.net[layer].requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[4].parameters(), lr=0.1)


@pytest.mark.parametrize("per", ["weight", "unit"])
def test_patterns_that_choose_nothing_an_optimizer_has_are_refused(per):
    chosen = UPGDPerturbation(per=per, include="net.0*")
    message = r"include=\('net.0\*',\).*nothing that an optimizer has.*Head.configure_optimizers.*frozen or not"
    with pytest.raises(InvalidArgumentError, match=message):
        fit(Head(), chosen)


def test_a_callback_whose_parameters_are_all_frozen_says_so_and_begins_when_they_thaw():
    module, callback = Regression(), UPGDPerturbation(**SETTINGS, include="net.0.*")
    module.net[0].requires_grad_(False)

    class Thaw(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].requires_grad_(trainer.current_epoch > 0)

    with pytest.warns(UserWarning, match=r"UPGDPerturbation has nothing to do .*\['net.0.weight'.*Train them"):
        fit(module, callback, Thaw())
    assert [part.get("step") for part in callback.gates[0].state_dict()["weights"][:3]] == [6, 6, None]


def test_parameters_that_an_optimizer_gets_later_are_gated_too():
    class Later(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": pl_module.net[0].parameters()})

    callback = UPGDPerturbation(**SETTINGS)
    fit(Head(), callback, Later())
    assert [part["step"] for part in callback.gates[0].state_dict()["weights"]] == [12, 12, 6, 6]


@pytest.mark.parametrize("when", ["before_clipping", "after_clipping"])
@pytest.mark.parametrize("per", ["weight", "unit"])
@pytest.mark.parametrize("way", ["more parameters", "another optimizer"])
def test_a_head_that_grows_in_a_fit_is_gated_and_the_others_keep_their_utilities(way, per, when):
    class Grown(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.net[4] = nn.Linear(6, 2)
                if way == "more parameters":
                    trainer.optimizers[0].add_param_group({"params": pl_module.net[4].parameters()})
                else:
                    trainer.strategy.setup_optimizers(trainer)

    module, callback = Regression(), UPGDPerturbation(**SETTINGS, per=per, when=when)
    fit(module, callback, Grown())
    clocks = callback.gates[0].gates.memory
    if per == "unit":
        assert {name: memory.step for name, memory in clocks.items()} == {"net.0": 12, "net.2": 12}
    else:
        steps = {name: clocks[parameter]["step"] for name, parameter in module.named_parameters()}
        assert steps == {name: 6 if "net.4" in name else 12 for name in steps}
    logged = {name.removeprefix("upgd/neutral/") for name in callback.metrics()}
    assert logged == ({"net.0", "net.2"} if per == "unit" else set(steps))


def test_curvature_of_a_head_that_has_grown_starts_anew_with_all_utilities():
    class Grown(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.net[4] = nn.Linear(6, 2)
                trainer.strategy.setup_optimizers(trainer)

    callback = UPGDPerturbation(**SETTINGS, curvature="hesscale")
    fit(Regression(), callback, Grown())
    assert {part["step"] for part in callback.gates[0].state_dict()["weights"]} == {6}


def test_a_changed_choice_is_named_when_a_checkpoint_is_resumed(tmp_path):
    fit(Regression(), UPGDPerturbation(**SETTINGS)).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"add the following callbacks.*UPGDPerturbation\{'per': 'weight', 'inc"):
        fit(Regression(), UPGDPerturbation(**SETTINGS, per="unit"), ckpt_path=tmp_path / "a.ckpt", max_epochs=3)


def test_a_checkpoint_with_another_number_of_optimizers_is_refused(tmp_path):
    run = fit(Two(), UPGDPerturbation())
    callback = UPGDPerturbation()
    callback.load_state_dict(run.callbacks[0].state_dict())
    with pytest.raises(StateMismatchError, match=r"for 2 optimizers.*those of 1.*drop the callback's state"):
        fit(Regression(), callback)


def test_manual_modules_need_an_example_to_find_units():
    with pytest.raises(UnsupportedModelError, match=r"optimises manually.*`example_input=`"):
        fit(Regression(manual=True), UPGDPerturbation(per="unit"))


@pytest.mark.ddp
@pytest.mark.parametrize("per", ["weight", "unit"])
def test_processes_draw_the_same_noise_and_do_not_drift(per, tmp_path):
    fit(Drift(tmp_path), UPGDPerturbation(noise_std=0.1, per=per), devices=2, strategy="ddp_fork", max_epochs=1)
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


class Drift(Regression):
    """Writes its weights on every process; the processes have different global seeds."""

    def __init__(self, folder):
        super().__init__(_sgd)
        self.folder = folder

    def on_fit_start(self):
        torch.manual_seed(100 + self.global_rank)

    def on_train_end(self):
        torch.save(self.net.state_dict(), self.folder / f"{self.global_rank}.pt")


def _sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)
