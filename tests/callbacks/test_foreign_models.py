"""Models from elsewhere are trained with Continual Backprop without a word about their structure."""

import lightning.pytorch as pl
import pytest
import torch
import torchvision
from torch import nn

from lightning_plasticity import ContinualBackprop


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


@pytest.mark.parametrize("make", [resnet18, vision_transformer, mobilenet, gpt2])
def test_units_are_found_and_replaced_with_no_argument_about_the_structure(make, tmp_path):
    torch.manual_seed(0)
    model, x = make()
    callback = ContinualBackprop(replacement_rate=0.05, maturity_threshold=2, seed=0)
    trainer = pl.Trainer(
        max_steps=8,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = torch.utils.data.TensorDataset(x.repeat(2, *[1] * (x.ndim - 1)), torch.randint(5, (8,)))
    trainer.fit(Wrapped(model), torch.utils.data.DataLoader(data, batch_size=4))
    replacer = callback.replacer
    assert len(replacer.groups) >= 2
    assert all(ages.step == 8 for ages in replacer.ages)
    assert sum(ages.replaced for ages in replacer.ages) >= len(replacer.groups)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
