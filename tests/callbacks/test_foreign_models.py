"""Models from elsewhere are trained with Continual Backprop without a word about their structure."""

import lightning.pytorch as pl
import pytest
import torch
import torchvision
from torch import nn

from lightning_plasticity import ContinualBackprop, discover_units, testing
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.units import verify_units


def resnet18():
    return torchvision.models.resnet18(num_classes=5), torch.randn(4, 3, 32, 32)


def vision_transformer():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    return model, torch.randn(4, 3, 32, 32)


def mobilenet():
    return torchvision.models.mobilenet_v3_small(num_classes=5), torch.randn(4, 3, 64, 64)


def gpt2():
    transformers = pytest.importorskip("transformers", reason="needs `pip install transformers`")
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=5)
    config.pad_token_id = 0
    return transformers.GPT2ForSequenceClassification(config), torch.randint(1, 40, (4, 12))


class Wrapped(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        output = self.model(batch[0])
        logits = output if isinstance(output, torch.Tensor) else output.logits
        return nn.functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


MODELS = [resnet18, vision_transformer, mobilenet, gpt2]
LARGE = {resnet18, mobilenet}


def trainer(tmp_path, callback, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(callbacks=[callback], accelerator="cpu", default_root_dir=tmp_path, **{**quiet, **options})


@pytest.mark.parametrize("make", MODELS)
def test_units_are_found_and_replaced_with_no_argument_about_the_structure(make, tmp_path):
    torch.manual_seed(0)
    model, x = make()
    callback = ContinualBackprop(replacement_rate=0.05, maturity_threshold=2, seed=0)
    data = torch.utils.data.TensorDataset(x.repeat(2, *[1] * (x.ndim - 1)), torch.randint(5, (8,)))
    trainer(tmp_path, callback, max_steps=8).fit(Wrapped(model), torch.utils.data.DataLoader(data, batch_size=4))
    replacer = callback.replacer
    assert len(replacer.groups) >= 2
    assert not any(group.coupled or group.residual for group in replacer.groups)
    assert all(ages.step == 8 for ages in replacer.ages)
    assert sum(ages.replaced for ages in replacer.ages) >= len(replacer.groups)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("make", [pytest.param(m, marks=[pytest.mark.slow] * (m in LARGE)) for m in MODELS])
def test_the_laws_hold_on_them(make):
    def seeded():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    testing.check_method(continual_backprop(0.05, 2), seeded, steps=4)


@pytest.mark.parametrize("make", [vision_transformer, gpt2])
def test_no_group_of_them_is_coupled_so_that_the_first_law_holds_exactly(make):
    assert not any(group.coupled for group in discover_units(*make()))


class GAN(pl.LightningModule):
    """Two networks and two optimizers in one module."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
        self.critic = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 1))

    def both(self):
        return self.critic(self.generator(torch.randn(4, 3))), self.critic(torch.randn(4, 4))

    def training_step(self, batch, batch_idx):
        for number, optimizer in enumerate(self.optimizers()):
            fake, real = self.both()
            loss = -fake.mean() if number == 0 else fake.mean() - real.mean()
            self.manual_backward(loss)
            optimizer.step()
            self.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters()) for part in (self.generator, self.critic)]


def test_both_networks_of_a_gan_are_treated_each_at_the_steps_of_its_own_optimizer(tmp_path):
    module = GAN()
    callback = ContinualBackprop(0.2, 2, example_input=module.both, seed=0)
    trainer(tmp_path, callback, max_steps=12).fit(module, torch.utils.data.DataLoader(torch.zeros(20, 1)))
    assert [group.name for group in callback.replacer.groups] == ["generator.0", "critic.0"]
    assert [ages.step for ages in callback.replacer.ages] == [6, 6]
    assert all(ages.replaced for ages in callback.replacer.ages)
    assert not verify_units(module, module.both, discover_units(module, module.both)).failed
