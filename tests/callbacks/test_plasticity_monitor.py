"""The monitor: what it logs, and that training does not notice it."""

import copy
import csv

import lightning.pytorch as pl
import pytest
import torch
import torchmetrics
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity import functional
from lightning_plasticity.callbacks import ContinualBackprop
from lightning_plasticity.callbacks.monitoring.arguments import available_metrics
from lightning_plasticity.callbacks.plasticity_monitor import PlasticityMonitor
from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.metrics import ApproximateRank, EffectiveRank, OnlineAccuracy, StableRank
from lightning_plasticity.streams import StreamDataModule

EXAMPLE = torch.zeros(1, 6)
METRICS = ("effective_rank", "dormant_unit_ratio")


class Odd(nn.Module):
    def forward(self, x):
        return {"x": x}


class Classifier(pl.LightningModule):
    def __init__(self, example, norm, idle, odd, manual, compiled, fails):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 12),
            nn.ReLU(),
            nn.BatchNorm1d(12) if norm else nn.Dropout(0.2),
            nn.Linear(12, 9),
            nn.ReLU(),
            nn.Linear(9, 3),
        )
        self.idle = nn.Linear(6, 6) if idle else None
        self.odd = Odd() if odd else None
        self.fails = fails
        self.automatic_optimization = not manual
        self.example_input_array = example
        if compiled:
            self.net.compile(backend="eager")

    def forward(self, x):
        return self.net(x if self.odd is None else self.odd(x)["x"])

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.fails and batch_idx == 3:
            raise RuntimeError("batch 3")
        loss = nn.functional.cross_entropy(self(x), y)
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), 0.01)


def fit(tmp_path, *callbacks, logger=None, steps=20, datamodule=None, ckpt_path=None, **options):
    pl.seed_everything(0, verbose=False)
    kinds = {kind: options.pop(kind, False) for kind in ("norm", "idle", "odd", "manual", "compiled", "fails")}
    options.pop("layer", None)
    module = Classifier(options.pop("example", EXAMPLE), **kinds)
    data = TensorDataset(torch.randn(64, 6), torch.randint(0, 3, (64,)))
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger if logger is not None else CSVLogger(tmp_path),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    loader = None if datamodule else DataLoader(data, batch_size=8, shuffle=True)
    trainer.fit(module, loader, datamodule=datamodule, ckpt_path=ckpt_path)
    trainer.logger.finalize("success")
    return module, trainer


def rows(trainer, layer="net.0"):
    with open(trainer.logger.experiment.metrics_file_path) as file:
        names = [f"plasticity/{metric}/{layer}" for metric in ("effective_rank", "spread")]
        return [row for row in csv.DictReader(file) if any(row.get(name) for name in names)]


pytestmark = pytest.mark.filterwarnings("ignore:.*Checkpoint directory")


def test_every_metric_is_logged_for_every_layer_at_the_period(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(every_n_steps=5, batches=2))
    found = rows(trainer)
    assert [int(row["step"]) for row in found] == [1, 6, 11, 16]
    for metric in METRICS:
        assert all(float(row[f"plasticity/{metric}/{layer}"]) >= 0 for row in found for layer in ("net.0", "net.3"))
    assert all(float(row["plasticity/weight_magnitude/net.5"]) > 0 for row in found)


def test_tensorboard_reads_one_series_per_layer_and_metric(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(every_n_steps=5, batches=1), logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(trainer.logger.log_dir)
    events.Reload()
    for tag in ("effective_rank/net.0", "dormant_unit_ratio/net.3", "weight_magnitude/net.5"):
        assert [event.step for event in events.Scalars(f"plasticity/{tag}")] == [0, 5, 10, 15]


def test_training_is_bit_identical_with_and_without_the_monitor(tmp_path):
    watched, _ = fit(tmp_path, PlasticityMonitor(every_n_steps=3))
    alone, _ = fit(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))


def test_without_an_example_the_first_training_batch_is_used(tmp_path):
    given, trainer = fit(tmp_path, PlasticityMonitor(every_n_steps=5, batches=2), example=None)
    assert [int(row["step"]) for row in rows(trainer)] == [1, 6, 11, 16]
    alone, _ = fit(tmp_path, example=None)
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), alone.parameters(), strict=True))


def test_no_hook_is_left_behind(tmp_path):
    module, _ = fit(tmp_path, PlasticityMonitor(every_n_steps=7, batches=3))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


def oracle(module, x):
    """Return the activations that the two readers of hidden units see."""
    hidden = module.net[:2](x)
    return {"net.0": hidden, "net.3": module.net[2:5](hidden)}


def test_a_probe_gives_the_values_of_the_final_network_in_evaluation_mode(tmp_path):
    probe = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(probe, torch.zeros(50)), batch_size=20)
    names = ["effective_rank", "dormant_unit_ratio", "active_fraction"]
    module, trainer = fit(tmp_path, PlasticityMonitor(8, names, probe=loader, epoch_ends=True), steps=16)
    last = rows(trainer)[-1]
    with torch.no_grad():
        for layer, features in oracle(module.eval(), probe).items():
            for name in names:
                expected = getattr(functional, name)(features).item()
                assert float(last[f"plasticity/{name}/{layer}"]) == pytest.approx(expected, rel=1e-6)


def test_a_probe_leaves_modes_buffers_and_random_numbers_as_they_were(tmp_path):
    probe = torch.randn(5, 6)
    watched, _ = fit(tmp_path, PlasticityMonitor(2, probe=probe, epoch_ends=True), norm=True)
    alone, _ = fit(tmp_path, norm=True)
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )


def test_all_metrics_at_once_leave_training_bit_identical(tmp_path):
    watched, trainer = fit(tmp_path, PlasticityMonitor(3, sorted(available_metrics()), batches=2), norm=True)
    alone, _ = fit(tmp_path, norm=True)
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )
    logged = {name.split("/")[1] for name in rows(trainer)[-1] if name.startswith("plasticity/")}
    kinds = {"optimizer_state_norm_exp_avg", "optimizer_state_norm_exp_avg_sq"}
    assert logged == (set(available_metrics()) - {"optimizer_state_norm"}) | kinds


def test_weights_gradients_and_updates_are_those_of_the_step(tmp_path):
    class Record(pl.Callback):
        def on_train_start(self, trainer, module):
            self.initial = module.net[0].weight.detach().clone()

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.gradient, self.before = module.net[0].weight.grad.clone(), module.net[0].weight.detach().clone()

    names = ["gradient_norm", "update_ratio", "distance_from_initialization", "spectral_norm"]
    record = Record()
    module, trainer = fit(tmp_path, PlasticityMonitor(1, [*names, "effective_rank"], batches=1), record, steps=4)
    last, weight = rows(trainer)[-1], module.net[0].weight.detach()
    expected = {
        "gradient_norm": record.gradient.norm(),
        "update_ratio": (weight - record.before).norm() / record.before.norm(),
        "distance_from_initialization": (weight - record.initial).norm(),
        "spectral_norm": torch.linalg.matrix_norm(weight, 2),
    }
    for name in names:
        assert float(last[f"plasticity/{name}/net.0"]) == pytest.approx(expected[name].item(), rel=1e-5)


def test_a_window_of_batches_is_measured_as_one(tmp_path):
    seen = []

    class Record(pl.Callback):
        def on_train_start(self, trainer, module):
            module.net[3].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))

    _, trainer = fit(tmp_path, Record(), PlasticityMonitor(4, batches=3), steps=8)
    expected = functional.effective_rank(torch.cat(seen[4:7])).item()
    assert float(rows(trainer)[1]["plasticity/effective_rank/net.0"]) == pytest.approx(expected, rel=1e-9)


def test_the_ends_of_epochs_are_measured_on_their_last_batches(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(None, epoch_ends=True, batches=3), steps=24)
    assert [int(row["step"]) for row in rows(trainer)] == [7, 15, 23]


@pytest.mark.parametrize("probe", [None, torch.ones(3, 6)])
def test_the_ends_of_experiences_are_measured(tmp_path, probe):
    stream = [TensorDataset(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(3)]
    datamodule = StreamDataModule(stream, epochs_per_experience=2, batch_size=8)
    monitor = PlasticityMonitor(None, experience_ends=True, probe=probe, batches=2 if probe is None else None)
    _, trainer = fit(tmp_path, monitor, steps=-1, max_epochs=6, datamodule=datamodule)
    found = rows(trainer)
    assert [float(row["plasticity/experience"]) for row in found] == [0, 1, 2]
    assert [int(row["step"]) for row in found] == ([3, 7, 11] if probe is None else [4, 8, 12])


def test_modules_can_be_chosen_by_name(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(4, layers=["net.[03]"]), example=None, layer="net.3")
    found = rows(trainer, "net.3")
    assert found
    assert float(found[0]["plasticity/weight_magnitude/net.3"]) > 0
    assert not any(name.endswith("net.5") for name in found[0])


def test_metrics_of_the_user_are_measured(tmp_path):
    class Largest(torchmetrics.MaxMetric):
        pass

    metrics = {"spread": ApproximateRank(0.5, 1), "largest": Largest(), "effective_rank": EffectiveRank(centered=True)}
    _, trainer = fit(tmp_path, PlasticityMonitor(5, metrics))
    assert float(rows(trainer)[0]["plasticity/largest/net.3"]) > 0
    assert 1 <= float(rows(trainer)[0]["plasticity/spread/net.3"]) <= 9


def test_aggregates_and_the_trainers_own_metrics(tmp_path):
    monitor = PlasticityMonitor(5, aggregate=["mean", "min", "max"], progress_bar=["effective_rank"])
    _, trainer = fit(tmp_path, monitor)
    row = rows(trainer)[-1]
    both = [float(row[f"plasticity/effective_rank/{layer}"]) for layer in ("net.0", "net.3")]
    found = [float(row[f"plasticity/effective_rank/{kind}"]) for kind in ("mean", "min", "max")]
    assert found == pytest.approx([sum(both) / 2, min(both), max(both)])
    assert trainer.callback_metrics["plasticity/effective_rank/mean"].item() == pytest.approx(found[0])
    assert list(trainer.progress_bar_metrics) == ["plasticity/effective_rank/mean"]


def test_tensorboard_gets_a_chart_per_metric_and_histograms_at_a_slower_period(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    monitor = PlasticityMonitor(5, batches=1, histogram_every_n_steps=10)
    replacement = ContinualBackprop(1e-3)
    _, trainer = fit(tmp_path, replacement, monitor, logger=logger)
    events = EventAccumulator(trainer.logger.log_dir, size_guidance={"histograms": 0})
    events.Reload()
    assert [e.step for e in events.Histograms("plasticity/unit_score/net.0")] == [0, 10]
    assert [e.step for e in events.Histograms("plasticity/utility/net.3")] == [0, 10]
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for page in layout.category for chart in page.chart}
    assert charts["effective_rank"] == ["plasticity/effective_rank/net.0", "plasticity/effective_rank/net.3"]
    assert charts["effective_rank: mean"] == ["plasticity/effective_rank/mean"]


def test_all_three_aggregates_are_one_band(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    _, trainer = fit(tmp_path, PlasticityMonitor(5, aggregate=["max", "mean", "min"]), logger=logger)
    events = EventAccumulator(trainer.logger.log_dir)
    events.Reload()
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    band = layout.category[0].chart[-1].margin.series[0]
    tags = [f"plasticity/effective_rank/{kind}" for kind in ("mean", "min", "max")]
    assert [band.value, band.lower, band.upper] == tags


def test_the_distance_from_initialization_survives_a_resume(tmp_path):
    names = ["distance_from_initialization", "effective_rank"]
    monitor = PlasticityMonitor(4, names, batches=1)
    _, trainer = fit(tmp_path, monitor, steps=8)
    trainer.save_checkpoint(tmp_path / "resume.ckpt")
    again = PlasticityMonitor(4, names, batches=1)
    _, resumed = fit(tmp_path, again, steps=16, ckpt_path=tmp_path / "resume.ckpt")
    _, whole = fit(tmp_path, PlasticityMonitor(4, names, batches=1), steps=16)
    value = "plasticity/distance_from_initialization/net.0"
    # Lightning draws other batches after a resume; the distance since the resume alone would be a tenth of this one.
    assert float(rows(resumed)[0][value]) == pytest.approx(float(rows(whole)[2][value]), rel=0.05)


def test_gradient_accumulation_and_manual_optimisation_are_measured(tmp_path):
    names = ["effective_rank", "gradient_norm", "update_ratio"]
    _, trainer = fit(tmp_path, PlasticityMonitor(2, names, batches=2), accumulate_grad_batches=2, steps=6)
    assert [int(row["step"]) for row in rows(trainer)] == [1, 3, 5] or len(rows(trainer)) == 3
    assert all(float(row["plasticity/update_ratio/net.0"]) > 0 for row in rows(trainer))
    _, trainer = fit(tmp_path, PlasticityMonitor(2, names, batches=1), manual=True, steps=6)
    assert all(float(row["plasticity/gradient_norm/net.0"]) > 0 for row in rows(trainer))


def test_layers_that_are_not_heard_are_named_once(tmp_path):
    monitor = PlasticityMonitor(4, layers=["net.0", "idle"], batches=1)
    with pytest.warns(UserWarning, match=r"no activations arrived from \['idle'\].*`probe=`") as caught:
        fit(tmp_path, monitor, idle=True)
    assert len([w for w in caught if "no activations" in str(w.message)]) == 1


def test_a_probe_is_heard_through_a_compiled_network(tmp_path):
    probe = torch.randn(20, 6)
    _, trainer = fit(tmp_path, PlasticityMonitor(4, probe=probe), compiled=True)
    assert len(rows(trainer)) == 5


def test_hooks_are_removed_when_training_fails(tmp_path):
    watched = []

    class Record(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            watched.append(sum(bool(m._forward_pre_hooks or m._forward_hooks) for m in module.modules()))

        def on_exception(self, trainer, module, exception):
            watched.append(sum(bool(m._forward_pre_hooks or m._forward_hooks) for m in module.modules()))

    with pytest.raises(RuntimeError, match="batch 3"):
        fit(tmp_path, PlasticityMonitor(4), Record(), fails=True)
    assert watched == [2, 2, 2, 2, 0]


def test_a_fit_shorter_than_a_measurement_is_measured_on_what_it_has(tmp_path):
    _, short = fit(tmp_path, PlasticityMonitor(batches=10), steps=3)
    _, exact = fit(tmp_path, PlasticityMonitor(batches=3), steps=3)
    expected = rows(exact)
    assert [int(row["step"]) for row in expected] == [2]
    assert rows(short) == expected


def test_a_measurement_cut_off_by_the_end_does_not_end_a_curve(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(8, batches=4), steps=10)
    assert [int(row["step"]) for row in rows(trainer)] == [3]


def test_a_fit_without_a_measurement_says_why(tmp_path):
    with pytest.warns(UserWarning, match=r"nothing was logged.*after 3 optimizer steps.*`every_n_steps`"):
        fit(tmp_path, PlasticityMonitor(None, epoch_ends=True, batches=2), steps=3)


def test_a_measurement_cut_off_without_a_logger_says_so():
    batches = DataLoader(TensorDataset(torch.randn(8, 6), torch.zeros(8, dtype=torch.long)), batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_steps": 3}
    with pytest.warns(UserWarning, match=r"nothing was logged.*after 3 optimizer steps.*`every_n_steps` and `batches`"):
        pl.Trainer(**quiet, callbacks=[PlasticityMonitor()]).fit(Classifier(EXAMPLE, *[False] * 6), batches)


class Attentive(Classifier):
    def __init__(self):
        super().__init__(EXAMPLE, *[False] * 6)
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.net = nn.Sequential(nn.Unflatten(1, (1, 6)), layer, nn.Flatten(), nn.Linear(6, 3))


def test_units_that_no_hook_can_hear_are_named_and_their_weights_measured(tmp_path):
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[PlasticityMonitor(1, batches=1)],
        logger=CSVLogger(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(TensorDataset(torch.randn(8, 6), torch.zeros(8, dtype=torch.long)), batch_size=4)
    with pytest.warns(UserWarning, match=r"units of \['net.1.self_attn'\].*`exclude=`.*`layers=`"):
        trainer.fit(Attentive(), data)
    last = rows(trainer, "net.1.linear1")[-1]
    assert "plasticity/effective_rank/net.1.self_attn" not in last
    assert float(last["plasticity/weight_magnitude/net.1.self_attn"]) > 0


def test_a_model_with_nothing_to_watch_is_refused(tmp_path):
    class Linear(Classifier):
        def __init__(self, *args):
            super().__init__(*args)
            self.net = nn.Linear(6, 3)

    trainer = pl.Trainer(logger=False, enable_checkpointing=False, callbacks=[PlasticityMonitor()], max_steps=1)
    with pytest.raises(UnsupportedModelError, match=r"no hidden units in Linear(.|\n)*`example_input=`.*`layers=`"):
        trainer.fit(Linear(EXAMPLE, *[False] * 6), DataLoader(torch.ones(4, 6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["rang"]}, r"metric 'rang'.*'effective_rank'.*`metrics`"),
        ({"metrics": ["EffectiveRank"]}, r"metric 'EffectiveRank'.*Did you mean 'effective_rank'\?$"),
        ({"metrics": "effective_rank"}, r"metrics='effective_rank'.*Put a single one in a list"),
        ({"metrics": [EffectiveRank]}, r"metrics=\[.*EffectiveRank.*rather than the class"),
        ({"metrics": {"rank": "effective_rank"}}, r"metrics=\{'rank'.*a list of names"),
        ({"metrics": 3}, r"metrics=3.*a list of names"),
        ({"aggregate": None}, r"aggregate=None.*'mean', 'min', 'max'"),
        ({"metrics": []}, r"metrics=\[\].*a list of names"),
        ({"aggregate": "mean"}, r"aggregate='mean'.*Pass a tuple"),
        ({"aggregate": ("median",)}, r"aggregate=\('median',\).*'mean', 'min', 'max'"),
        ({"every_n_steps": 0}, r"every_n_steps=0.*in \[1, inf\)"),
        ({"batches": 0}, r"batches=0.*in \[1, inf\)"),
        ({"max_samples": 0}, r"max_samples=0.*in \[1, inf\)"),
        ({"every_n_steps": None}, r"never measures.*`epoch_ends=True`"),
        ({"histogram_every_n_steps": 150}, r"histogram_every_n_steps=150.*multiple of every_n_steps=100"),
        (
            {"metrics": ["gradient_dormant_ratio"], "probe": torch.ones(1, 6)},
            r"'gradient_dormant_ratio' with a `probe`",
        ),
        ({"metrics": [OnlineAccuracy()]}, r"'online_accuracy', .* with \(predictions, targets\).*`training_step`"),
        ({"metrics": [torchmetrics.MeanSquaredError()]}, r"with \(preds, target\).*features alone"),
        ({"layers": "net.0", "include": "net.0"}, r"`layers` and `include`.*no effect.*Leave out `include`"),
        ({"layers": "net.0", "exclude": [], "example_input": 1}, r"`layers` and `exclude` and `example_input`"),
        ({"batches": 2, "probe": torch.ones(1, 6)}, r"`probe` and `batches`.*Leave out `batches`"),
        ({"layers": []}, r"layers=\[\].*one or several patterns"),
        ({"layers": nn.Linear(1, 1)}, r"layers=Linear.*one or several patterns"),
        ({"metrics": [EffectiveRank(), "effective_rank"]}, r"two metrics named 'effective_rank'.*mapping"),
        ({"progress_bar": ["stable_rank"]}, r"'stable_rank' in `progress_bar`.*`metrics`"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PlasticityMonitor(**options)


def test_a_single_text_is_one_pattern_and_one_name():
    monitor = PlasticityMonitor(layers="net.*", progress_bar="effective_rank")
    assert (monitor.layers, monitor.progress_bar) == (("net.*",), ("effective_rank",))
    assert PlasticityMonitor(include="net.0").state_key == PlasticityMonitor(include=["net.0"]).state_key
    assert PlasticityMonitor(layers="net.0").state_key != PlasticityMonitor().state_key


def test_a_foreign_metric_of_features_alone_is_welcome():
    assert PlasticityMonitor(metrics=[torchmetrics.MeanMetric()]).metrics.keys() == {"mean_metric"}


def test_a_pattern_that_matches_no_module_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"'encoder.*' in `layers` matches no module.*net.0"):
        fit(tmp_path, PlasticityMonitor(layers=["encoder.*"]))


def test_a_module_without_features_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"output of 'odd' is a dict.*`layers`"):
        fit(tmp_path, PlasticityMonitor(layers=["odd"]), odd=True)


def test_a_probe_needs_a_forward_method(tmp_path):
    class Bare(pl.LightningModule):
        def configure_optimizers(self):
            raise AssertionError

        training_step = configure_optimizers

    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, callbacks=[PlasticityMonitor(probe=torch.ones(1, 6))]
    )
    with pytest.raises(UnsupportedModelError, match=r"Bare has no `forward`.*return self.net\(x\)`"):
        PlasticityMonitor(probe=torch.ones(1, 6)).setup(trainer, Bare(), "fit")


def test_experience_ends_need_a_stream(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"StreamDataModule.*`epoch_ends` instead"):
        fit(tmp_path, PlasticityMonitor(experience_ends=True))


def test_the_monitor_pickles_and_copies():
    monitor = copy.deepcopy(PlasticityMonitor(7, ["stable_rank"]))
    assert monitor.every_n_steps == 7
    assert isinstance(monitor.metrics["stable_rank"], StableRank)
