"""Online Permuted MNIST (Dohare et al., Nature 2024): does a network learn its last task as fast as its first?

    uv run examples/permuted_mnist.py --fast --data-root DATA --plot

Every task permutes the pixels anew; every image is seen once; accuracy is measured on each batch before the network
learns from it. With backprop it falls over the tasks, while units die, weights grow and the effective rank of the
hidden layers sinks. DATA holds ``MNIST/raw`` as torchvision leaves it (``--download`` fetches it); without it
scikit-learn's digits stand in. Rows go to ``OUT/permuted_mnist.csv``, one per task; a run that was killed goes on
where it was.

The full protocol (800 tasks of 60 000 images, one image per step, width 2000) takes days. ``--fast`` has 100 units per
layer, 16 images per step and 100 tasks of 6000 images: one to two minutes of processor time per run. Its step size is
that one of 0.03, 0.05, 0.1 and 0.2 with which backprop learns the first ten tasks best, on a seed that is not shown;
its replacement rate replaces the share of units per task that the paper's does, 6 %.

For the sensitivity curves of the paper vary ``--width``, ``--step-size`` (of SGD; Adam takes a thirtieth of it) and
``--samples-per-task``. ``--as-published`` divides the sum of the weights by the count for width 2000, as the published
code does whatever the width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_plasticity.callbacks import ContinualBackprop, ShrinkAndPerturb
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
from lightning_plasticity.functional import dead_unit_ratio, effective_rank
from lightning_plasticity.streams import PermutedInputs, StreamDataModule, load_digits_images, load_images, read_tensors

PROBE = 2000  # images of the new task on which units are judged before it is learnt
PUBLISHED_WEIGHTS = 9_588_000  # the published code divides by the weights of the width 2000, whatever the width
FAST = {"width": 100, "batch_size": 16, "tasks": 100, "samples_per_task": 6000, "step_size": 0.05, "rate": 1.6e-4}
FULL = {"width": 2000, "batch_size": 1, "tasks": 800, "samples_per_task": None, "step_size": 0.003, "rate": 1e-6}


class OnlineClassifier(pl.LightningModule):
    """Three hidden layers of ReLU; nothing in here knows about plasticity but what is measured."""

    def __init__(self, stream: PermutedInputs, width: int, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        inputs = stream[0][0][0].numel()
        self.net = nn.Sequential()
        for size in (inputs, width, width):
            self.net += nn.Sequential(nn.Linear(size, width), nn.ReLU())
        self.net.append(nn.Linear(width, 10))
        for layer in self.linear_layers():
            gain = "linear" if layer.out_features == 10 else "relu"
            nn.init.kaiming_uniform_(layer.weight, nonlinearity=gain)
            nn.init.zeros_(layer.bias)
        self.stream, self.optimizer = stream, optimizer
        self.example_input_array = torch.zeros(2, inputs)
        self.measures: dict[str, float] = {}
        self.correct, self.seen = torch.tensor(0), 0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def linear_layers(self) -> list[nn.Linear]:
        return [layer for layer in self.net if isinstance(layer, nn.Linear)]

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        task = self.stream[self.trainer.datamodule.current_experience]
        x = read_tensors(task)[0][:PROBE].to(self.device)
        ranks, dead = [], []
        for layer in self.net[:-1]:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                ranks.append(effective_rank(x))
                dead.append(dead_unit_ratio(x))
        self.measures = {
            "dead_units": float(torch.stack(dead).mean()),
            "effective_rank": float(torch.stack(ranks).mean()),
            "weight_sum": float(sum(layer.weight.abs().sum() for layer in self.linear_layers())),
        }
        self.correct, self.seen = torch.tensor(0, device=self.device), 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.net(x)
        self.correct += (logits.argmax(1) == y).sum()
        self.seen += len(y)
        return nn.functional.cross_entropy(logits, y)

    def row(self, as_published: bool) -> dict[str, float]:
        weights = sum(layer.weight.numel() for layer in self.linear_layers())
        magnitude = self.measures["weight_sum"] / (PUBLISHED_WEIGHTS if as_published else weights)
        return {
            "online_accuracy": float(self.correct) / self.seen,
            "dead_units": self.measures["dead_units"],
            "weight_magnitude": magnitude,
            "effective_rank": self.measures["effective_rank"],
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.net.parameters())


def optimizer_of(method: str, step_size: float) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer of a method, with the settings of the paper's comparison."""
    if method == "adam":
        return lambda parameters: torch.optim.Adam(parameters, lr=step_size / 30)
    decay = 1e-4 if method in {"l2", "shrink-perturb"} else 0.0
    return lambda parameters: torch.optim.SGD(parameters, lr=step_size, weight_decay=decay)


def run(method: str, seed: int, images: TensorDataset, arguments: argparse.Namespace, table: ResultTable) -> None:
    constants = {
        "method": method,
        "width": arguments.width,
        "step_size": arguments.step_size,
        "replacement_rate": arguments.rate if method == "continual-backprop" else 0.0,
        "batch_size": arguments.batch_size,
        "samples_per_task": arguments.samples_per_task or len(images),
        "seed": seed,
    }
    if {**constants, "experience": arguments.tasks - 1} in table:
        return
    stream = PermutedInputs(images, arguments.tasks, samples_per_experience=arguments.samples_per_task, seed=seed)
    datamodule = StreamDataModule(stream, batch_size=arguments.batch_size, preload=True, seed=seed)
    torch.manual_seed(seed)
    module = OnlineClassifier(stream, arguments.width, optimizer_of(method, arguments.step_size))
    published = arguments.as_published
    callbacks: list[pl.Callback] = [ExperienceRows(table, constants, lambda module: module.row(published))]
    if method == "continual-backprop":
        callbacks.append(ContinualBackprop(replacement_rate=arguments.rate, maturity_threshold=100, seed=seed))
    if method == "shrink-perturb":  # the optimizer shrinks
        callbacks.append(ShrinkAndPerturb(shrink=1.0, noise_std=1e-5, every="step", seed=seed))
    folder = arguments.out / "checkpoints" / "-".join(["permuted_mnist", *map(str, constants.values())])
    fit_resumable(
        module,
        datamodule,
        folder,
        callbacks=callbacks,
        max_steps=arguments.max_steps,
        accelerator=arguments.accelerator,
    )


METHODS = ("backprop", "l2", "shrink-perturb", "adam", "continual-backprop")
PAPER = (
    "paper (800 tasks of 60 000 images, width 2000, step size 0.003): backprop 95.2 % at its peak, 93.7 % at the end"
)


def panels(arguments: argparse.Namespace) -> list[Panel]:
    """The paper's panels; where the run is as long as the paper's, with its end point."""
    marks = {"paper: backprop": (800.0, 93.7)} if arguments.tasks == 800 else {}
    return [
        Panel("online_accuracy", "online accuracy (%)", 100, marks=marks),
        Panel("dead_units", "dead units (%)", 100),
        Panel("weight_magnitude", "mean weight magnitude"),
        Panel("effective_rank", "effective rank"),
    ]


def summarise(table: ResultTable, measures: Sequence[Panel]) -> None:
    """Print every measure in the first tenth of the tasks, the tenth that is best for learning, and the last.

    Each is a mean over seeds with its standard error. Then how far Continual Backprop is ahead in the end.
    """
    best = {name: values.nanmean(0).argmax() for name, values in tenths(table, "online_accuracy").items()}
    for panel in measures:
        for method, values in tenths(table, panel.column).items():
            mean, error = mean_and_error(panel.factor * values[:, [0, int(best[method]), -1]])
            shown = " -> ".join(f"{m:8.4g} ± {e:<8.2g}" for m, e in zip(mean, error, strict=True))
            print(f"{panel.label:24} {method:20} {shown}")
    last = {method: 100 * values[:, -1] for method, values in tenths(table, "online_accuracy").items()}
    if {"backprop", "continual-backprop"} <= set(last):
        seeds = min(map(len, last.values()))
        lead = last["continual-backprop"][:seeds] - last["backprop"][:seeds]
        lead = lead[~lead.isnan()]  # a seed that has not come that far
        spread = f"standard deviation {lead.std():.2f}, {len(lead)} seeds" if len(lead) > 1 else "one seed"
        print(f"continual-backprop ahead of backprop in the last tenth: {lead.mean():.2f} points, {spread}")


def tenths(table: ResultTable, column: str) -> dict[str, Tensor]:
    """A column's means over tenths of the tasks, ``[seeds, 10]``, by method."""
    curves = seed_curves(table.rows(), column)
    return {
        method: torch.stack([part.nanmean(1) for part in values.tensor_split(10, dim=1) if part.numel()], dim=1)
        for method, values in curves.items()
    }


def read_images(arguments: argparse.Namespace) -> TensorDataset:
    """The training images as numbers in [0, 1], flat."""
    if arguments.data_root is None:
        print("no --data-root: scikit-learn's digits stand in for MNIST")
        x, y = load_digits_images().tensors
    else:
        x, y = load_images("MNIST", arguments.data_root, download=arguments.download).tensors
    return TensorDataset(x.flatten(1).float() / 255, y)


def main() -> None:
    arguments = experiment_arguments(
        __doc__, methods=METHODS, full=FULL, fast=FAST, by_default=("backprop", "continual-backprop")
    )
    key = ("method", "width", "step_size", "replacement_rate", "batch_size", "samples_per_task", "seed", "experience")
    table = ResultTable(arguments.out / "permuted_mnist.csv", key)
    images = read_images(arguments)
    for seed in arguments.seeds:
        for method in arguments.method:
            run(method, seed, images, arguments, table)
    summarise(table, panels(arguments))
    if arguments.plot and table.rows():
        figure = arguments.out / "permuted_mnist.png"
        width = max(1, arguments.tasks // 20)
        draw_panels(
            table.rows(), figure, panels(arguments), xlabel=f"task (bins of {width})", title=PAPER, bin_width=width
        )
        print(f"figure: {figure}")


if __name__ == "__main__":
    main()
