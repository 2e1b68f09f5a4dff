"""Continual ImageNet (Dohare et al., Nature 2024): binary tasks between pairs of classes, one after the other.

    uv run examples/continual_imagenet.py --fast --data-root DATA --plot

At the beginning of every task the output layer is set to 0; everything else, momentum included, is kept. With backprop
the network learns later tasks worse. Any image set of 32x32 colour images with many classes will do: DATA holds
``NAME/train_*.webp`` with ``labels.npz``, ``NAME/train/CLASS/*.png`` or CIFAR-100 as torchvision leaves it, and
``--images`` says NAME. Without it scikit-learn's digits, enlarged, stand in. Rows go to ``OUT/continual_imagenet.csv``,
one per task; a run that was killed goes on where it was.

The full protocol (2000 tasks, 250 epochs of 1200 images, 32 to 128 channels) takes half a day on a large GPU.
``--fast`` has a quarter of the channels and 30 tasks of 15 epochs, 20 images per step: about a minute of processor time
per run. Its step size is that one of 0.01, 0.03 and 0.1 with which backprop learns the first tasks best, on a seed that
is not shown. Pairs of classes do not come again before every pair has come; ``--as-published`` repeats one order of the
classes.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_plasticity.callbacks import ContinualBackprop
from lightning_plasticity.callbacks.experience import experience_begins
from lightning_plasticity.callbacks.layer_reset import LayerReset
from lightning_plasticity.experiments import (
    ExperienceRows,
    Panel,
    ResultTable,
    draw_panels,
    experiment_arguments,
    fit_resumable,
    mean_and_error,
    seed_curves,
)
from lightning_plasticity.functional import dead_unit_ratio, effective_rank, weight_magnitude
from lightning_plasticity.streams import ClassPairs, StreamDataModule, load_digits_images, load_images, read_tensors

METHODS = ("backprop", "l2", "continual-backprop")
FAST = {"channels": 8, "tasks": 30, "epochs": 15, "batch_size": 20, "step_size": 0.03, "rate": 1e-3}
FULL = {"channels": 32, "tasks": 2000, "epochs": 250, "batch_size": 100, "step_size": 0.01, "rate": 3e-4}
PAPER = "paper (2000 tasks, step size 0.01): backprop 89.4 % at first, about 74 % at the end; linear 77.1 %"


class ConvNet(pl.LightningModule):
    def __init__(self, channels: int, step_size: float, weight_decay: float, test: ClassPairs) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((3, channels, 5), (channels, 2 * channels, 3), (2 * channels, 4 * channels, 3)):
            layers += [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Sequential()
        for inputs in (16 * channels, 4 * channels):
            self.hidden += nn.Sequential(nn.Linear(inputs, 4 * channels), nn.ReLU())
        self.head = nn.Linear(4 * channels, 2)
        self.step_size, self.weight_decay, self.test = step_size, weight_decay, test
        self.example_input_array = torch.zeros(2, 3, 32, 32)
        self.measures: dict[str, float] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(x)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(_floats(batch[0])), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decay = self.weight_decay
        return torch.optim.SGD(self.parameters(), lr=self.step_size, momentum=0.9, weight_decay=decay)

    def test_images(self, place: int) -> tuple[Tensor, Tensor]:
        x, y = read_tensors(self.test[place])
        return _floats(x.to(self.device)), y.to(self.device)

    def row(self) -> dict[str, float]:
        x, y = self.test_images(self.trainer.datamodule.current_experience)
        return {"test_accuracy": float((self(x).argmax(1) == y).float().mean()), **self.measures}

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        if not experience_begins(self.trainer):
            return
        x, _ = self.test_images(self.trainer.datamodule.current_experience)
        dead = []
        for layer in (*self.body, *self.hidden):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                dead.append(dead_unit_ratio(x))
        weights = [layer.weight for layer in self.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        self.measures = {
            "dead_units": float(torch.stack(dead).mean()),
            "effective_rank": float(effective_rank(x)),
            "weight_magnitude": float(weight_magnitude(weights)),
        }


def _floats(x: Tensor) -> Tensor:
    return x.float() / 255


def zero(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        parameter.zero_()


def run(
    method: str, seed: int, images: dict[str, TensorDataset], arguments: argparse.Namespace, table: ResultTable
) -> None:
    constants = {
        "method": method,
        "images": arguments.images if arguments.data_root else "digits",
        "channels": arguments.channels,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "step_size": arguments.step_size,
        "replacement_rate": arguments.rate if method == "continual-backprop" else 0.0,
        "as_published": int(arguments.as_published),
        "seed": seed,
    }
    if {**constants, "experience": arguments.tasks - 1} in table:
        return
    train, test = (
        ClassPairs(images[split], arguments.tasks, repeat_order=arguments.as_published, seed=seed)
        for split in ("train", "test")
    )
    datamodule = StreamDataModule(train, arguments.epochs, batch_size=arguments.batch_size, preload=True, seed=seed)
    torch.manual_seed(seed)
    module = ConvNet(arguments.channels, arguments.step_size, 3e-6 if method == "l2" else 0.0, test)
    callbacks: list[pl.Callback] = [
        LayerReset("head", initializer=zero, first=True, reset_optimizer=False),
        ExperienceRows(table, constants, ConvNet.row),
    ]
    if method == "continual-backprop":
        callbacks.append(ContinualBackprop(replacement_rate=arguments.rate, maturity_threshold=100, seed=seed))
    folder = arguments.out / "checkpoints" / "-".join(["imagenet", *map(str, constants.values())])
    fit_resumable(
        module,
        datamodule,
        folder,
        callbacks=callbacks,
        max_steps=arguments.max_steps,
        accelerator=arguments.accelerator,
    )


def panels(arguments: argparse.Namespace) -> list[Panel]:
    """The paper's panels; where the run is as long as the paper's, with its end points."""
    marks = {"paper: backprop": (2000.0, 74.0), "paper: linear": (2000.0, 77.1)} if arguments.tasks == 2000 else {}
    return [
        Panel("test_accuracy", "test accuracy (%)", 100, marks=marks),
        Panel("dead_units", "dead units (%)", 100),
        Panel("weight_magnitude", "mean weight magnitude"),
        Panel("effective_rank", "effective rank of the last hidden layer"),
    ]


def summarise(table: ResultTable) -> None:
    """Print the first and the last quarter of the tasks: mean over seeds and its standard error."""
    for method, curves in seed_curves(table.rows(), "test_accuracy").items():
        quarters = [100 * part.nanmean(1) for part in curves.tensor_split(4, dim=1) if part.numel()]
        for name, values in (("first quarter of tasks", quarters[0]), ("last", quarters[-1])):
            mean, error = mean_and_error(values)
            print(f"{method:20} {name:24} {mean:6.2f} ± {error:.2f} % test accuracy")


def read_images(arguments: argparse.Namespace) -> dict[str, TensorDataset]:
    """Training and test images, uint8, ``[N, 3, 32, 32]``."""
    if arguments.data_root is None:
        print("no --data-root: scikit-learn's digits, enlarged, stand in for ImageNet")
        return {split: load_digits_images(split=split, enlarge=4, channels=3) for split in ("train", "test")}
    return {
        split: load_images(arguments.images, arguments.data_root, split=split, download=arguments.download)
        for split in ("train", "test")
    }


def main() -> None:
    arguments = experiment_arguments(
        __doc__,
        methods=METHODS,
        full=FULL,
        fast=FAST,
        by_default=("backprop", "continual-backprop"),
        more={"images": "tiny_imagenet32"},
    )
    settings = ("channels", "epochs", "batch_size", "step_size", "replacement_rate", "as_published", "seed")
    key = ("method", "images", *settings, "experience")
    table = ResultTable(arguments.out / "continual_imagenet.csv", key)
    images = read_images(arguments)
    for seed in arguments.seeds:
        for method in arguments.method:
            run(method, seed, images, arguments, table)
    summarise(table)
    if arguments.plot and table.rows():
        figure = arguments.out / "continual_imagenet.png"
        width = max(1, arguments.tasks // 10)
        draw_panels(
            table.rows(), figure, panels(arguments), xlabel=f"task (bins of {width})", title=PAPER, bin_width=width
        )
        print(f"figure: {figure}")


if __name__ == "__main__":
    main()
