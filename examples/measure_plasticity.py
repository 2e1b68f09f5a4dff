"""Watch the plasticity of a network you already have: torchvision's ResNet-18, on random images, in four lines.

    uv run examples/measure_plasticity.py [--max-steps 120] [--out runs/measure_plasticity]

The four lines are marked. In TensorBoard, see "Scalars" (one curve per layer and metric), "Custom scalars" (one chart
per metric with all layers) and "Histograms". A map of dormant units, layer by layer, is drawn from the same log.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import lightning.pytorch as pl
import matplotlib as mpl
import torch
import torchvision
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity import plots
from lightning_plasticity.callbacks import PlasticityMonitor  # 1


class Classifier(pl.LightningModule):
    """Any module of yours; nothing in it knows of plasticity."""

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=10)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def random_images(count: int = 512) -> TensorDataset:
    """Images of noise with random labels: to fit them, a network must memorise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset(images, torch.randint(10, (count,), generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("runs/measure_plasticity"))
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(0, verbose=False)

    probe = torch.randn(256, 3, 32, 32)  # the same images at every measurement: what changes is the network
    monitor = PlasticityMonitor(  # 2
        every_n_steps=10,
        metrics=["effective_rank", "dormant_unit_ratio", "dead_unit_ratio", "weight_magnitude", "update_ratio"],
        probe=probe,
        histogram_every_n_steps=20,
        progress_bar=["effective_rank"],
        aggregate=["mean", "min", "max"],
    )
    logger = TensorBoardLogger(args.out, name="resnet18")  # 3
    trainer = pl.Trainer(  # 4
        max_steps=args.max_steps,
        log_every_n_steps=5,
        callbacks=[monitor],
        logger=logger,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), DataLoader(random_images(), batch_size=16, shuffle=True))

    logger.finalize("success")
    mpl.use("Agg")
    figure = args.out / "dormant_units.png"
    axes = plots.plot_layers(plots.read_log(logger.log_dir), "dormant_unit_ratio", label="share of dormant units")
    axes.figure.set_size_inches(8, 4.5)
    axes.figure.savefig(figure, dpi=150)
    print(f"\nMap of dormant units: {figure}\nTensorBoard:          tensorboard --logdir {args.out}")


if __name__ == "__main__":
    main()
