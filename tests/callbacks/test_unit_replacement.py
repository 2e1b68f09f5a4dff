"""The engine in a Lightning Trainer: the same numbers as in a bare loop, whatever the Trainer does."""

from __future__ import annotations

import csv
import logging
import random
import re

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from support.training_runs import Classifier, data, loader, method, mlp, same, snapshot, train, trainer
from torch import nn

from lightning_plasticity.callbacks import ContinualBackprop, ReDo, UnitReplacement
from lightning_plasticity.callbacks.trial import trial_run
from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    UnsupportedOptimizerError,
)
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.units import discover_units


def callback(**options) -> UnitReplacement:
    changes = {k: options.pop(k) for k in ("replacement_rate", "maturity_threshold") if k in options}
    return UnitReplacement(method(**changes), **{"seed": 7, **options})


class Validated(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("validated", self(batch[0]).mean())


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


def replaced(ours: UnitReplacement) -> int:
    return sum(ages.replaced for ages in ours.replacer.ages)


# ------------------------------------------------------------------------------------------- the same as a bare loop


@pytest.mark.parametrize("example", [True, False])
def test_a_fit_is_bit_for_bit_the_bare_loop(tmp_path, example):
    ours, module = callback(), Classifier(example=example)
    trainer(tmp_path, callbacks=[ours]).fit(module, loader())
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with UnitReplacer(method(), discover_units(model, torch.randn(2, 6)), optimizer, seed=7) as replacer:
        train(model, optimizer, [*data(), *data()])
    assert replaced(ours) > 0
    assert same(snapshot(module), snapshot(model))
    assert same(ours.replacer.state_dict(), replacer.state_dict())


class Noisy(Classifier):
    """Draws from every generator, keeps lists, counters, metrics and buffers."""

    def __init__(self, **options):
        super().__init__(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.2), nn.ReLU(), nn.Linear(9, 3)))
        self.example_input_array = None
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.outputs, self.calls, self.found = [], 0, {}
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        x = batch[0] + torch.randn(()) * 0.1 + np.random.default_rng(random.randrange(9)).normal() * 0.1  # noqa: S311
        x = x + np.random.randn() * 0.1
        logits = self(x.float())
        self.accuracy(logits, batch[1])
        self.calls += 1
        self.seen += 1
        self.outputs.append(logits.detach())
        self.found["last"] = self.calls
        self.late = True
        self.log("accuracy", self.accuracy)
        return nn.functional.cross_entropy(logits, batch[1])


def test_a_rate_of_zero_trains_bit_for_bit_like_no_callback(tmp_path):
    runs = []
    for ours in ([], [callback(replacement_rate=0.0)]):
        pl.seed_everything(3, verbose=False)
        module = Noisy()
        fitted = trainer(tmp_path, callbacks=ours)
        fitted.fit(module, loader())
        python, numpy = random.getstate(), np.random.get_state()[1].tolist()
        runs.append((snapshot(module), module.outputs, module.calls, module.found, torch.get_rng_state()))
        runs[-1] += (python, numpy, fitted.callback_metrics)
    assert ours[0].replacer.ages[0].step == 16
    assert same(*runs)


def test_a_trial_run_leaves_nothing_behind():
    module = Noisy()
    before = snapshot(module)
    with trial_run(module):
        module.training_step(data()[0], 0)
        module.net[1].running_mean += 1
    assert same(before, snapshot(module))
    assert (module.calls, module.outputs, module.found, module.accuracy.update_count) == (0, [], {}, 0)
    assert not {"late", "log", "print"} & set(vars(module))


# --------------------------------------------------------------------------------------------------- real training


def test_with_accumulation_units_age_with_optimizer_steps_and_see_all_micro_batches(tmp_path):
    runs = []
    for size, every in ((12, 1), (4, 3)):
        ours, module = callback(), Classifier(optimizer="SGD")
        module.lr = 0.1
        batches = loader(12 * 8 // size, size, seed=1)
        batches = torch.utils.data.DataLoader(loader(8, 12).dataset, batch_size=size)
        trainer(tmp_path, callbacks=[ours], accumulate_grad_batches=every).fit(module, batches)
        assert [ages.step for ages in ours.replacer.ages] == [16, 16]
        runs.append((ours.replacer.state_dict()["groups"], module.net[0].weight.detach()))
    assert all(same(runs[0][0][name]["ages"], runs[1][0][name]["ages"]) for name in runs[0][0])
    assert torch.allclose(runs[0][1], runs[1][1], rtol=1e-3)


class Adversaries(pl.LightningModule):
    """Two networks and two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = mlp(1), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.judge(self.maker(x))

    def training_step(self, batch, batch_idx):
        make, judge = self.optimizers()
        self.toggle_optimizer(judge)
        judge.zero_grad()
        self.manual_backward(self.judge(self.maker(batch[0]).detach()).square().mean())
        judge.step()
        self.untoggle_optimizer(judge)
        if batch_idx % 2 == 0:
            self.toggle_optimizer(make)
            make.zero_grad()
            self.manual_backward(-self(batch[0]).mean())
            make.step()
            self.untoggle_optimizer(make)

    def configure_optimizers(self):
        return [torch.optim.Adam(each.parameters(), lr=1e-3) for each in (self.maker, self.judge)]


def test_with_manual_optimisation_every_unit_ages_with_its_own_optimizer(tmp_path):
    ours, module = callback(example_input=torch.zeros(2, 6), record_events=True), Adversaries()
    trainer(tmp_path, callbacks=[ours]).fit(module, loader())
    steps = {group.name: ages.step for group, ages in zip(ours.replacer.groups, ours.replacer.ages, strict=True)}
    assert steps["maker.0"] == 8
    assert steps["judge.0"] == 16
    assert {"maker.0", "judge.0"} <= {event.group for event in ours.events}


class Overflowing(Classifier):
    """One batch has a loss without a finite gradient."""

    poisoned = True

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * torch.inf if self.poisoned and batch_idx == 5 else loss


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_amp_skips_leaves_no_trace(tmp_path, fused):
    class Module(Overflowing):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, fused=fused)

    states = []
    for poisoned in (True, False):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10_000, backoff_factor=0.5)
        ours, module = callback(), Module()
        module.poisoned = poisoned
        batches = [b for e in range(2) for i, b in enumerate(data()) if poisoned or (e, i) != (0, 5)]
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        batches = torch.utils.data.DataLoader(batches, batch_size=None)
        trainer(tmp_path, callbacks=[ours], plugins=[plugin], max_epochs=1).fit(module, batches)
        assert replaced(ours) > 0
        states.append(ours.replacer.state_dict()["groups"])
    assert all(same(states[0][name]["ages"], states[1][name]["ages"]) for name in states[0])
    for name in states[0]:
        utilities = [state[name]["memory"]["utility"] for state in states]
        assert torch.allclose(*utilities, rtol=0.05)  # float16 activations


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision_and_clipping_train_on(tmp_path, precision):
    ours, module = callback(), Classifier()
    trainer(tmp_path, callbacks=[ours], precision=precision, gradient_clip_val=0.1).fit(module, loader())
    assert replaced(ours) > 0
    assert ours.replacer.memory.flat["utility"].dtype == torch.float32
    assert all(p.isfinite().all() for p in module.parameters())


def test_sanity_check_and_validation_touch_nothing(tmp_path):
    states = []
    for options in ({}, {"num_sanity_val_steps": 2, "val_check_interval": 2}):
        ours, module = callback(), Validated() if options else Classifier()
        validation = {"val_dataloaders": loader(2, seed=9)} if options else {}
        trainer(tmp_path, callbacks=[ours], **options).fit(module, loader(), **validation)
        states.append((ours.replacer.state_dict(), snapshot(module)))
    assert same(*states)


def test_a_training_step_without_a_loss_ages_nothing(tmp_path):
    class Module(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

    ours = callback()
    with pytest.warns(UserWarning, match="training_step` returned `None`"):
        trainer(tmp_path, callbacks=[ours]).fit(Module(), loader())
    assert ours.replacer.ages[0].step == 8


def test_frozen_and_unoptimized_layers_are_left_alone_and_named(tmp_path, caplog):
    module = Classifier(nn.Sequential(mlp(), nn.ReLU(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)))
    module.net[0][0].requires_grad_(False)
    ours = callback()
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        trainer(tmp_path, callbacks=[ours]).fit(module, loader())
    assert "net.0.0" not in [group.name for group in ours.replacer.groups]
    assert re.search(r"skipped net.0.0: its weight is frozen", caplog.text)
    line = next(line for line in caplog.text.splitlines() if line.startswith("net.2 "))
    assert line.split() == ["net.2", "8", "400", "4"]


class Last(pl.Callback):
    """Keeps the weights of the end of the last epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights = snapshot(pl_module)


def test_weight_averaging_beside_us_changes_nothing(tmp_path):
    runs = []
    for others in ([], [WeightAveraging()]):
        ours, module = callback(), Classifier()
        last = Last()
        trainer(tmp_path, callbacks=[ours, *others, last]).fit(module, loader())
        assert replaced(ours) > 0
        runs.append((last.weights, ours.replacer.state_dict()))
    assert same(*runs)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["rate", "batch"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tuner_run_leaves_no_trace(tmp_path, kind, first):
    class Module(Classifier):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(loader(8).dataset, batch_size=self.batch_size)

    runs = []
    for tuned in (False, True):
        ours, module = callback(record_events=True), Module()
        if kind == "rate":
            tuner = LearningRateFinder(num_training_steps=12, update_attr=False)
        else:
            tuner = BatchSizeFinder("power", steps_per_trial=6, init_val=10, max_trials=1)
        others = [tuner] if tuned else []
        trainer(tmp_path, callbacks=[*others, ours] if first else [ours, *others]).fit(module)
        runs.append((ours.replacer.state_dict(), snapshot(module), module.batch_size, ours.events))
        assert len(ours.events) > 0
    assert same(*runs)


# ---------------------------------------------------------------------------------------------------------- lifetime


def test_several_fits_continue_ages_utilities_and_events(tmp_path):
    ours, module = callback(record_events=True), Classifier()
    trainer(tmp_path, callbacks=[ours], max_epochs=1).fit(module, loader())
    engine, utility = ours.replacer, ours.replacer.memory.flat["utility"].clone()
    events = len(ours.events)
    trainer(tmp_path, callbacks=[ours], max_epochs=1).fit(module, loader(seed=2))
    assert ours.replacer is engine  # the same tensors, so that compiled code still finds them
    assert ours.replacer.ages[0].step == 16
    assert len(ours.events) > events > 0
    assert not torch.equal(utility, engine.memory.flat["utility"])
    assert hooks(module) == 0
    module.net[4] = nn.Linear(16, 7)  # a grown head: other tensors, so a new engine with the old memory
    trainer(tmp_path, callbacks=[ours], max_epochs=1).fit(module, loader(seed=3))
    assert ours.replacer is not engine
    assert ours.replacer.ages[0].step == 24


def test_a_fit_of_another_module_starts_anew(tmp_path):
    used, new = callback(), callback()
    trainer(tmp_path, callbacks=[used], max_epochs=1).fit(Classifier(), loader())
    modules = [Classifier() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    for ours, module in zip((used, new), modules, strict=True):
        trainer(tmp_path, callbacks=[ours], max_epochs=1).fit(module, loader(seed=2))
        assert ours.replacer.ages[0].step == 8
    for one, other in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("example", [True, False])
def test_resumed_at_an_epoch_boundary_is_bit_for_bit_the_uninterrupted_run(tmp_path, example):
    def fit(epochs, folder, **options):
        ours, module = callback(), Classifier(example=example)
        saver = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        fitted = trainer(tmp_path, callbacks=[ours, saver], max_epochs=epochs, enable_checkpointing=True)
        fitted.fit(module, loader(), **options)
        return ours.replacer.state_dict(), snapshot(module), fitted.optimizers[0].state_dict()

    whole = fit(3, "saved")
    path = tmp_path / "saved" / "epoch=0.ckpt"
    assert (
        torch.load(path, weights_only=True)["callbacks"][callback().state_key]["groups"]["net.0"]["ages"]["step"] == 8
    )
    assert same(fit(3, "resumed", ckpt_path=path), whole)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resuming_another_model_names_the_layers(tmp_path):
    saver = ModelCheckpoint(tmp_path / "saved", filename="last")
    options = {"max_epochs": 1, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[callback(), saver], **options).fit(Classifier(), loader())
    path = tmp_path / "saved" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    state = saved["callbacks"][callback().state_key]["groups"]
    state["net.9"] = state.pop("net.2")
    torch.save(saved, path)
    message = r"it has no units of 'net.2'; it has units of 'net.9', which are not treated here"
    with pytest.raises(StateMismatchError, match=message):
        trainer(tmp_path, callbacks=[callback()], max_epochs=2).fit(Classifier(), loader(), ckpt_path=path)


def test_after_an_exception_no_hook_is_left(tmp_path):
    class Failing(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            assert hooks(self) > 0
            raise ZeroDivisionError

    module = Failing()
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callbacks=[callback()]).fit(module, loader())
    assert hooks(module) == 0


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module_is_observed_from_its_first_step(tmp_path):
    torch.compiler.reset()
    states = []
    for compiled in (False, True):
        ours, module = callback(), Validated()
        fitted = torch.compile(module, backend="eager") if compiled else module
        trainer(tmp_path, callbacks=[ours], num_sanity_val_steps=1).fit(fitted, loader(), loader(1))
        states.append(ours.replacer.state_dict()["groups"])
        assert replaced(ours) > 0
    torch.compiler.reset()
    assert all(same(states[0][name]["ages"], states[1][name]["ages"]) for name in states[0])


class Dump(pl.Callback):
    """Writes what every process has at the end."""

    def __init__(self, ours, folder):
        self.ours, self.folder = ours, folder

    def on_train_epoch_end(self, trainer, pl_module):
        torch.save((snapshot(pl_module), self.ours.replacer.state_dict()), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore")
def test_processes_of_a_trainer_stay_equal_bit_for_bit(tmp_path):
    ours = callback(seed=None)
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    callbacks = [ours, Dump(ours, tmp_path), ModelCheckpoint(tmp_path / "saved")]
    options = {"strategy": strategy, "devices": 2, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=callbacks, **options).fit(Classifier(example=False), loader(16, 5))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first[1]["groups"]["net.0"]["ages"]["step"] == 16
    assert first[1]["groups"]["net.0"]["ages"]["replaced"] > 0
    assert same(first, second)


# ------------------------------------------------------------------------------------------------------------- logging


def test_scalars_of_every_group_are_logged(tmp_path):
    ours = callback()
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, callbacks=[ours], logger=logger, log_every_n_steps=4).fit(Classifier(), loader())
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    losses = [int(row["step"]) for row in rows if row.get("loss")]
    rows = [row for row in rows if row.get("unit_replacement/replaced/net.0")]
    assert [int(row["step"]) for row in rows] == losses == [3, 7, 11, 15]  # as Lightning counts, from 0
    assert int(float(rows[-1]["unit_replacement/replaced/net.0"])) == ours.replacer.ages[0].replaced > 0
    names = {name.rsplit("/", 1)[0].removeprefix("unit_replacement/") for name in rows[0] if "net.2" in name}
    assert names == {
        *("replaced", "mature_fraction", "steps_until_possible"),
        *("utility_low", "utility_median", "utility_high"),
    }


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Classifier(nn.Linear(6, 3)), "no hidden units in Classifier"),
        (
            lambda: Classifier(nn.Sequential(nn.Flatten(0), mlp())),
            r"the model failed on the example in evaluation mode.*RuntimeError",
        ),
        (Adversaries, r"Adversaries optimises manually and has no `example_input_array`.*Pass `example_inp"),
    ],
)
def test_what_cannot_be_treated_is_refused_before_the_first_step(tmp_path, module, message):
    stepped = []

    class Watcher(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            stepped.append(batch_idx)

    with pytest.raises(UnsupportedModelError, match=message):
        trainer(tmp_path, callbacks=[callback(), Watcher()]).fit(module(), loader())
    assert not stepped


def test_a_module_without_an_optimizer_is_refused(tmp_path):
    class Module(Classifier):
        def configure_optimizers(self):
            return None

    with (
        pytest.warns(UserWarning, match="configure_optimizers` returned `None`"),
        pytest.raises(UnsupportedModelError, match=r"Module trains without an optimizer.*UnitReplacement acts at its"),
    ):
        trainer(tmp_path, callbacks=[callback()]).fit(Module(), loader())


def test_lbfgs_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedOptimizerError, match="the optimizer LBFGS"):
        trainer(tmp_path, callbacks=[ContinualBackprop()]).fit(Classifier(optimizer="LBFGS"), loader())


def test_two_callbacks_that_replace_the_same_units_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"two engines that replace the units of \['net.0', 'net.2'\]"):
        trainer(tmp_path, callbacks=[ContinualBackprop(), ReDo()]).fit(Classifier(), loader())
    both = [ContinualBackprop(include="net.0"), ReDo(exclude="net.0")]
    trainer(tmp_path, callbacks=both).fit(Classifier(), loader())
    assert [[group.name for group in each.replacer.groups] for each in both] == [["net.0"], ["net.2"]]


def test_what_is_logged_can_be_monitored(tmp_path):
    run = trainer(tmp_path, callbacks=[ContinualBackprop(0.05, 3)], log_every_n_steps=4)
    run.fit(Classifier(), loader())
    assert run.callback_metrics["unit_replacement/replaced/net.0"] >= 1
    assert "unit_replacement/replaced/net.0" not in run.logged_metrics  # loggers have it already


class AddsAHead(Classifier):
    """Goes on with a further head from the second epoch on."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([self.net.pop(4)])

    def forward(self, x):
        return self.heads[-1](self.net(x))

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.heads.append(nn.Linear(16, 7))
            self.trainer.optimizers[0].add_param_group({"params": self.heads[-1].parameters()})


def test_a_head_that_is_added_in_a_fit_is_found_and_replacements_are_silent_for_it(tmp_path):
    ours, module = UnitReplacement(method(), record_events=True), AddsAHead()
    trainer(tmp_path, callbacks=[ours]).fit(module, loader())
    last = ours.replacer.groups[1]
    assert [slot.path for slot in last.outgoing] == ["heads.1.weight"]
    assert [ages.step for ages in ours.replacer.ages] == [16, 16]
    newest = max((event for event in ours.events if event.group == last.name), key=lambda event: event.step)
    assert newest.step > 8


def test_a_layer_that_reads_no_unit_may_be_added_in_a_fit(tmp_path):
    class Adds(Classifier):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.unused = nn.Linear(3, 3)

    ours, seen = UnitReplacement(method()), []
    watch = pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: seen.append(ours.replacer))
    trainer(tmp_path, callbacks=[ours, watch]).fit(Adds(), loader())
    assert seen[0] is seen[1]
    assert ours.replacer.links.hold()


class GrowsAHead(Classifier):
    """Exchanges its head by a wider one before the second epoch, and tells the optimizer in one of two ways."""

    def __init__(self, way: str, *, example: bool) -> None:
        super().__init__(example=example)
        self.way = way

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[4] = nn.Linear(16, 7)
            if self.way == "more parameters":
                self.trainer.optimizers[0].add_param_group({"params": self.net[4].parameters()})
            else:
                self.trainer.strategy.setup_optimizers(self.trainer)


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("way", ["more parameters", "another optimizer"])
def test_a_head_that_grows_in_a_fit_is_found_and_ages_go_on(tmp_path, way, example):
    ours, module = UnitReplacement(method(), record_events=True), GrowsAHead(way, example=example)
    before = []
    watch = pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: before.append(ours.replacer))
    trainer(tmp_path, callbacks=[ours, watch]).fit(module, loader())
    first, second = before
    assert second is ours.replacer is not first
    assert not first.attached
    assert [ages.step for ages in first.ages] == [8, 8]
    assert [ages.step for ages in second.ages] == [16, 16]
    assert second.groups[1].outgoing[0].tensor is module.net[4].weight
    late = [event for event in ours.events if event.group == "net.2" and event.step > 8]
    assert late
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in (*first.optimizers, *second.optimizers))
