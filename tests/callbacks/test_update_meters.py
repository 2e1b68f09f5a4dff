"""The loss again after the step: its value, and that training does not notice it."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks import ContinualBackprop, PlasticityMonitor
from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.functional import sample_plasticity
from lightning_plasticity.metrics import OnlineAccuracy, SamplePlasticity

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (24,), generator=torch.Generator().manual_seed(1))


class Classifier(pl.LightningModule):
    """Dropout, batch normalisation, noise from three generators, a metric and logging: all that could go wrong."""

    def __init__(self, manual=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        self.accuracy, self.starts = OnlineAccuracy(), []
        self.automatic_optimization = not manual

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.starts.append((torch.get_rng_state(), np.random.get_state()))
        logits = self(x + 0.1 * float(np.random.rand()))
        self.accuracy.update(logits, y)
        self.log("accuracy", self.accuracy.compute())
        return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits.detach()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.2)


def fit(*callbacks, module=None, **options):
    pl.seed_everything(3, verbose=False)
    module = module or Classifier()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    trainer = pl.Trainer(callbacks=list(callbacks), **(quiet | options))
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=4))
    return module, trainer


def monitor(every_n_steps=1, batches=6, **options):
    return PlasticityMonitor(every_n_steps, ["sample_plasticity"], batches=batches, layers=["net.0"], **options)


def by_hand(starts, accumulate):
    """Return the mean p(Z) of the updates of a bare loop; ``starts`` holds the random numbers every batch begins at."""
    module = Classifier()
    module.log = lambda *args: None
    optimizer, values = module.configure_optimizers(), []

    def loss_of(i):
        torch.set_rng_state(starts[i][0])
        np.random.set_state(starts[i][1])
        return module.training_step((X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]), i)["loss"]

    for i in range(6):
        loss = loss_of(i)
        (loss / accumulate).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            buffers = {name: buffer.clone() for name, buffer in module.net.named_buffers()}
            values.append(sample_plasticity(loss.detach(), loss_of(i).detach()))
            module.net.load_state_dict(module.net.state_dict() | buffers)
    return torch.stack(values).double().mean()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_share_of_the_loss_that_the_step_removes_from_its_own_batch(accumulate):
    module, trainer = fit(monitor(), accumulate_grad_batches=accumulate)
    assert len(module.starts) == 6  # what the second run did to the module is undone
    got = trainer.callback_metrics["plasticity/sample_plasticity"].double()
    assert got > 0.01
    torch.testing.assert_close(got, by_hand(module.starts, accumulate), rtol=1e-5, atol=0)


def test_a_step_without_effect_has_no_plasticity_whatever_the_dropout():
    module = Classifier()
    module.configure_optimizers = lambda: torch.optim.SGD(module.net.parameters(), 0.0)
    _, trainer = fit(monitor(), module=module)
    assert trainer.callback_metrics["plasticity/sample_plasticity"] == 0


def test_training_is_as_without_it_to_the_last_bit():
    ends = []
    for extra in ((), (monitor(2, 1),)):
        replacement = ContinualBackprop(0.2, 1, example_input=X[:4], seed=0)
        module, trainer = fit(replacement, *extra, max_epochs=3)
        random = torch.rand(3), np.random.rand(3).tolist()
        ends.append((module.state_dict(), trainer.callback_metrics["accuracy"], random))
    (one, accuracy, random), (other, accuracy_too, random_too) = ends
    assert all(one[name].equal(other[name]) for name in one)
    assert accuracy.equal(accuracy_too)
    assert random[0].equal(random_too[0])
    assert random[1] == random_too[1]


def test_only_measured_batches_run_twice():
    seen = []
    module = Classifier()
    module.net[0].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    fit(monitor(4, 2), module=module)
    assert seen == [True, False, True, False, True, True, True, False, True, False]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_both_losses_are_taken_in_the_precision_of_training(precision):
    module = Classifier()
    module.configure_optimizers = lambda: torch.optim.SGD(module.net.parameters(), 0.0)
    _, trainer = fit(monitor(), module=module, precision=precision)
    assert trainer.callback_metrics["plasticity/sample_plasticity"] == 0


def test_a_metric_of_ones_own_name_and_floor_is_shown_in_the_progress_bar():
    options = {"batches": 1, "layers": ["net.0"], "progress_bar": ["p"]}
    _, trainer = fit(PlasticityMonitor(1, {"p": SamplePlasticity(eps=1e9)}, **options))
    assert trainer.callback_metrics["plasticity/p"] > 0.99  # the floor is far above any loss
    assert "plasticity/p" in trainer.progress_bar_metrics


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_that_training_skips_is_left_out():
    class Skipping(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx % 2 else None

    _, trainer = fit(monitor(), module=Skipping())
    assert 0 < trainer.callback_metrics["plasticity/sample_plasticity"] <= 1


def test_manual_optimisation_is_refused_by_name():
    message = r"Classifier optimises manually.*'sample_plasticity'.*returns the loss.*Leave them out of `metrics`"
    with pytest.raises(UnsupportedModelError, match=message):
        fit(monitor(), module=Classifier(manual=True))
