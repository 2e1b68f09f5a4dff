"""Class-incremental CIFAR-100 (Dohare et al., Nature 2024): five more classes with every task, all seen ones stay.

    uv run examples/incremental_cifar100.py --fast --data-root DATA --plot

Five systems, all with early stopping and a step size that starts anew with every task: ``base`` keeps on training;
``head-reset`` draws the output layer anew with every task; ``shrink-perturb`` has noise beside the weight decay of all;
``continual-backprop`` replaces units; ``retrained`` begins with a new network every time. In the paper all of them lead
the retrained network at first, and all but Continual Backprop end behind it. DATA holds CIFAR-100 as torchvision leaves
it (``--download`` fetches it) or ``cifar100/train_*.webp`` with ``labels.npz``; without it scikit-learn's digits,
enlarged, stand in, two classes at a time. Rows go to ``OUT/incremental_cifar100.csv``, one per task; a run that was
killed goes on where it was.

The full protocol (20 tasks of 200 epochs, ResNet-18) takes hours per run on a large GPU. ``--fast`` has an eighth of
the channels, 10 tasks of 4 epochs and 40 training images of each class: about two minutes of processor time per run.

``--as-published`` brings back what the published code does and the paper does not say: test images are augmented too,
the best test accuracy over the epochs is reported rather than that of the validation-best epoch, measures are taken in
training mode, and the retrained network and the new heads keep momentum (the network its running statistics, too).
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_plasticity import experiments, functional, streams
from lightning_plasticity.callbacks import ContinualBackprop
from lightning_plasticity.callbacks.best_weights import BestWeights
from lightning_plasticity.callbacks.experience import experience_begins
from lightning_plasticity.callbacks.layer_reset import FromScratch, LayerReset
from lightning_plasticity.callbacks.regularization import ShrinkAndPerturb
from lightning_plasticity.callbacks.schedule_restart import ScheduleRestart
from lightning_plasticity.streams.randomness import derived_generator

METHODS = ("base", "head-reset", "shrink-perturb", "continual-backprop", "retrained")
IMAGES = {"train_images": 450, "validation_images": 50, "test_images": 100}
FULL = {"channels": 64, "tasks": 20, "epochs": 200, "step_size": 0.1, "rate": 1e-5, "maturity": 1000, **IMAGES}
FEW = {"train_images": 40, "validation_images": 20, "test_images": 30}
FAST = {"channels": 8, "tasks": 10, "epochs": 4, "step_size": 0.1, "rate": 1e-3, "maturity": 50, **FEW}
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
PROBE = 1000  # images of the next task's classes on which units are judged
DORMANT = 0.01  # of the inputs on which a unit is active
PUBLISHED = {"base": -5.0, "head-reset": -2.4, "shrink-perturb": -1.5, "continual-backprop": 0.1}
PAPER = "paper, 100 classes: retrained 76.1 %, continual backprop 76.2, shrink-perturb 74.5, head-reset 73.7, base 71.1"


def panels(arguments: argparse.Namespace) -> list[experiments.Panel]:
    """The paper's panels; its own end points are marked where the run is as long as the paper's."""
    marks = {f"paper: {name}": (20.0, value) for name, value in PUBLISHED.items()} if arguments.tasks == 20 else {}
    return [
        experiments.Panel("test_accuracy", "test accuracy (%)", 100),
        experiments.Panel(
            "test_accuracy", "test accuracy relative to retrained (points)", 100, baseline="retrained", marks=marks
        ),
        experiments.Panel("dormant_units", "dormant units (%)", 100),
        experiments.Panel("stable_rank", "approximate rank, power 1 (% of units)", 100),
    ]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        changes = stride > 1 or inputs != outputs
        shortcut = (nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential(*shortcut) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 for small images: a 3x3 stem without pooling, convolutions with biases."""

    def __init__(self, channels: int, classes: int) -> None:
        blocks, inputs = [], channels
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(Block(inputs, channels << stage, stride))
                inputs = channels << stage
        stem = (nn.Conv2d(3, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU())
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
        for layer in self.modules():
            initialise(layer)


@torch.no_grad()
def initialise(layer: nn.Module, statistics: bool = True) -> None:
    """Give a layer its first values, norm statistics included: what the network begins with and resets return to."""
    if isinstance(layer, nn.BatchNorm2d):
        if statistics:
            layer.reset_running_stats()
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if isinstance(layer, nn.Conv2d) else "linear")
        nn.init.zeros_(layer.bias)


class Incremental(pl.LightningModule):
    def __init__(self, arguments: argparse.Namespace, data: dict[str, streams.GrowingClasses], seed: int) -> None:
        super().__init__()
        self.net = ResNet18(arguments.channels, len(data["test"].class_order)).to(memory_format=torch.channels_last)
        self.arguments, self.test, self.probe, self.seed = arguments, data["test"], data["probe"], seed
        self.example_input_array = torch.zeros(2, 3, 32, 32)
        self.measures: dict[str, float] = {}
        self.best_test = 0.0
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.contiguous(memory_format=torch.channels_last))  # saves a quarter of the time

    @property
    def seen(self) -> int:
        place = self.trainer.datamodule.current_experience
        return min((place + 1) * self.test.classes_per_experience, len(self.test.class_order))

    def normalise(self, x: Tensor) -> Tensor:
        return (x.to(self.device).float() / 255 - self.mean) / self.std

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        x = streams.flip_crop_rotate(self.normalise(x), derived_generator(self.seed, "augmentation", self.global_step))
        return nn.functional.cross_entropy(self(x)[:, : self.seen], y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        right = self(self.normalise(batch[0]))[:, : self.seen].argmax(1) == batch[1]
        self.log("val_accuracy", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.arguments.step_size, momentum=0.9, weight_decay=5e-4)
        falls = [math.ceil(share * self.arguments.epochs) for share in (0.3, 0.6, 0.8)]
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, 0.2)]

    @torch.no_grad()
    def test_accuracy(self) -> float:
        x, y = streams.read_tensors(self.test[self.trainer.datamodule.current_experience])
        training, right = self.net.training, 0
        self.net.eval()
        for part, labels in zip(x.split(200), y.split(200), strict=True):
            images = self.normalise(part)
            if self.arguments.as_published:
                images = streams.flip_crop_rotate(images, derived_generator(self.seed, "test", self.global_step))
            right += int((self(images)[:, : self.seen].argmax(1) == labels.to(self.device)).sum())
        self.net.train(training)
        return right / len(y)

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        """Judge the units on the classes that are about to be learnt."""
        if not experience_begins(self.trainer):
            return
        self.best_test = 0.0
        place = self.trainer.datamodule.current_experience
        x, _ = streams.read_tensors(self.probe[place])
        maps = self.feature_maps(self.normalise(x[:PROBE]))
        units = sum(h.shape[1] for h in maps)
        self.measures = {
            "dormant_units": float(sum(functional.dormant_by_frequency(h, DORMANT) * h.shape[1] for h in maps)) / units,
            "stable_rank": float(functional.approximate_rank(maps[-1], power=1)) / maps[-1].shape[1],
            "weight_magnitude": float(functional.weight_magnitude(list(self.net.parameters()))),
        }

    def on_train_epoch_end(self) -> None:
        if self.arguments.as_published:
            self.best_test = max(self.best_test, self.test_accuracy())

    def row(self) -> dict[str, float]:
        accuracy = max(self.best_test, self.test_accuracy()) if self.arguments.as_published else self.test_accuracy()
        return {"test_accuracy": accuracy, **self.measures}

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """What comes out of the 17 rectifiers, the last of it pooled."""
        maps: list[Tensor] = []
        layers = [layer for layer in self.net.modules() if isinstance(layer, nn.ReLU)]
        handles = [layer.register_forward_hook(lambda module, args, out: maps.append(out)) for layer in layers]
        training = self.net.training
        self.net.train(self.arguments.as_published)
        self(x)
        self.net.train(training)
        for handle in handles:
            handle.remove()
        return [*maps[:-1], maps[-1].mean((2, 3))]


def system(method: str, arguments: argparse.Namespace, seed: int) -> list[pl.Callback]:
    """The callbacks that make a system out of the base system."""
    published = arguments.as_published
    if method == "head-reset":
        return [LayerReset("net.13", initializer=initialise, reset_optimizer=not published, seed=seed)]
    if method == "shrink-perturb":
        return [ShrinkAndPerturb(shrink=1.0, noise_std=1e-5, every="step", seed=seed)]
    if method == "continual-backprop":
        return [ContinualBackprop(arguments.rate, arguments.maturity, seed=seed)]
    if method == "retrained" and published:
        return [LayerReset("net", initializer=partial(initialise, statistics=False), reset_optimizer=False, seed=seed)]
    return [FromScratch(initializer=initialise, seed=seed)] if method == "retrained" else []


def run(
    method: str,
    seed: int,
    images: dict[str, TensorDataset],
    arguments: argparse.Namespace,
    table: experiments.ResultTable,
) -> None:
    constants = {
        "method": method,
        "images": "cifar100" if arguments.data_root else "digits",
        "channels": arguments.channels,
        "epochs": arguments.epochs,
        "train_images": arguments.train_images,
        "step_size": arguments.step_size,
        "replacement_rate": arguments.rate if method == "continual-backprop" else 0.0,
        "as_published": int(arguments.as_published),
        "seed": seed,
    }
    new = 5 if arguments.data_root else 2
    train = streams.GrowingClasses(images["train"], new, seed=seed)
    tasks = min(arguments.tasks, len(train))
    if {**constants, "experience": tasks - 1} in table:
        return
    data = {
        name: streams.GrowingClasses(images[split], new, keep_seen=keep, class_order=train.class_order)
        for name, split, keep in (("val", "validation", True), ("test", "test", True), ("probe", "train", False))
    }
    datamodule = streams.StreamDataModule(
        train[:tasks], arguments.epochs, batch_size=90, eval_experiences=data["val"][:tasks], preload=True, seed=seed
    )
    torch.manual_seed(seed)
    module = Incremental(arguments, data, seed)
    folder = arguments.out / "checkpoints" / "-".join(["cifar100", *map(str, constants.values())])
    callbacks = [
        *system(method, arguments, seed),
        ScheduleRestart(),
        BestWeights("val_accuracy"),
        experiments.ExperienceRows(table, constants, Incremental.row),
    ]
    experiments.fit_resumable(
        module,
        datamodule,
        folder,
        callbacks=callbacks,
        max_steps=arguments.max_steps,
        accelerator=arguments.accelerator,
    )


def summarise(table: experiments.ResultTable) -> None:
    """Print the accuracy on all classes after the last task: mean over seeds and its standard error."""
    for method, curves in experiments.seed_curves(table.rows(), "test_accuracy").items():
        mean, error = experiments.mean_and_error(100 * curves[:, -1])
        print(f"{method:20} after the last task {mean:6.2f} ± {error:.2f} % test accuracy")


def read_images(arguments: argparse.Namespace) -> dict[str, TensorDataset]:
    """Training, validation and test images, uint8, ``[N, 3, 32, 32]``, the first so many of each class."""
    if arguments.data_root is None:
        print("no --data-root: scikit-learn's digits, enlarged, stand in for CIFAR-100")
        train, test = (streams.load_digits_images(split=split, enlarge=4, channels=3) for split in ("train", "test"))
    else:
        root, download = arguments.data_root, arguments.download
        train, test = (
            streams.load_images("cifar100", root, split=split, download=download) for split in ("train", "test")
        )
    validation = arguments.validation_images
    return {
        "validation": streams.some_of_each_class(train, 0, validation),
        "train": streams.some_of_each_class(train, validation, validation + arguments.train_images),
        "test": streams.some_of_each_class(test, 0, arguments.test_images),
    }


def main() -> None:
    arguments = experiments.experiment_arguments(__doc__, methods=METHODS, full=FULL, fast=FAST, seeds=[0])
    key = ("method", "images", "channels", "epochs", "train_images", "step_size", "replacement_rate", "as_published")
    table = experiments.ResultTable(arguments.out / "incremental_cifar100.csv", (*key, "seed", "experience"))
    images = read_images(arguments)
    for seed in arguments.seeds:
        for method in arguments.method:
            run(method, seed, images, arguments, table)
    summarise(table)
    if arguments.plot and table.rows():
        figure = arguments.out / "incremental_cifar100.png"
        experiments.draw_panels(table.rows(), figure, panels(arguments), xlabel="task (5 classes each)", title=PAPER)
        print(f"figure: {figure}")


if __name__ == "__main__":
    main()
