"""The monitor: what it logs, and that training does not notice it."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.plasticity_monitor import PlasticityMonitor
from lightning_plasticity.errors import InvalidArgumentError

EXAMPLE = torch.zeros(1, 6)
METRICS = ("effective_rank", "dormant_unit_ratio")


class Classifier(pl.LightningModule):
    def __init__(self, example):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)
        )
        self.example_input_array = example

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def fit(tmp_path, *callbacks, logger=None, steps=20, example=EXAMPLE, **options):
    pl.seed_everything(0, verbose=False)
    module = Classifier(example)
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
    trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True))
    trainer.logger.finalize("success")
    return module, trainer


def rows(trainer):
    with open(trainer.logger.experiment.metrics_file_path) as file:
        return [row for row in csv.DictReader(file) if row.get("plasticity/effective_rank/net.0")]


@pytest.fixture(autouse=True)
def _few_workers_are_no_news(recwarn):
    import warnings

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def test_every_metric_is_logged_for_every_layer_at_the_period(tmp_path):
    _, trainer = fit(tmp_path, PlasticityMonitor(every_n_steps=5, batches=2))
    found = rows(trainer)
    assert [int(row["step"]) for row in found] == [1, 6, 11, 16]
    for metric in METRICS:
        assert all(float(row[f"plasticity/{metric}/{layer}"]) >= 0 for row in found for layer in ("net.0", "net.3"))
    assert all(float(row["plasticity/weight_magnitude/net.5"]) > 0 for row in found)


def test_tensorboard_reads_one_series_per_layer_and_metric(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


def test_an_unknown_metric_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"metric 'rank'.*'effective_rank'.*`metrics`"):
        PlasticityMonitor(metrics=["rank"])


@pytest.mark.parametrize("name", ["every_n_steps", "batches"])
def test_a_period_below_one_is_refused(name):
    with pytest.raises(InvalidArgumentError, match=rf"{name}=0.*at least 1"):
        PlasticityMonitor(**{name: 0})
