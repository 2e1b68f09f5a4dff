"""A network that loses the ability to learn, and the same network that does not.

    uv run examples/quickstart.py            # at most 3 minutes on 2 cores
    uv run examples/quickstart.py --seeds 5 --out runs/mine

Handwritten digits (real images that come with scikit-learn) become a stream of 100 experiences: in each, the pixels
are shuffled in a new way, so what was learned before helps little and the network has to learn again. An ordinary
LightningModule, which knows nothing of plasticity, is trained on the stream twice: with plain backprop, and with
``callbacks=[ContinualBackprop(...)]``. Prints a table, draws ``quickstart.png`` and writes TensorBoard logs.

How the numbers were chosen: Adam's learning rate is the one of {1e-3, 3e-3, 1e-2} with which *plain backprop* learns
the first experiences best; the replacement rate is the better one of {1e-4, 1e-3}. Seeds 0 and 1 were used for that.
"""

from __future__ import annotations

import argparse
import csv
import logging
import multiprocessing
import time
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from lightning_plasticity import ContinualBackprop, PlasticityMonitor
from lightning_plasticity.streams import StreamDataModule, input_permuted

EXPERIENCES, EPOCHS, BATCH, WIDTH, LEARNING_RATE = 100, 2, 32, 64, 3e-3
REPLACEMENT_RATE, MATURITY_THRESHOLD = 1e-3, 100
METHODS = {"backprop": "#D55E00", "continual backprop": "#0072B2"}  # colours told apart by everybody
PANELS = {
    "online_accuracy": "online accuracy",
    "effective_rank": f"effective rank (of {WIDTH})",
    "dormant_unit_ratio": "dormant units",
    "weight_magnitude": "mean weight magnitude",
}


class Classifier(pl.LightningModule):
    """Three hidden layers; not a line about plasticity."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for n in (64, WIDTH, WIDTH) for layer in (nn.Linear(n, WIDTH), nn.ReLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(WIDTH, 10))
        self.right = self.seen = 0

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        logits = self.net(x)
        self.right += int((logits.argmax(1) == y).sum())  # before the update, hence "online"
        self.seen += len(y)
        return nn.functional.cross_entropy(logits, y)

    def on_train_epoch_end(self) -> None:
        self.log("online_accuracy", self.right / self.seen)
        self.right = self.seen = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


class ReportEpochs(pl.Callback):
    """Tell the progress bar that an epoch is over."""

    def __init__(self, queue: Queue[int]) -> None:
        self.queue = queue

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.queue.put(1)


@dataclass
class Run:
    method: str
    seed: int
    out: Path
    max_steps: int
    threads: int

    @property
    def folder(self) -> str:
        return f"{self.method.replace(' ', '_')}/seed_{self.seed}"


def digits_stream(seed: int) -> StreamDataModule:
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    benchmark = input_permuted(digits, EXPERIENCES, seed=seed)  # an Avalanche benchmark
    return StreamDataModule(
        benchmark.train_stream, epochs_per_experience=EPOCHS, batch_size=BATCH, preload=True, seed=seed
    )


def train(run: Run, queue: Queue[int]) -> tuple[Run, dict[str, list[float]]]:
    """Train one network on the whole stream, in a process of its own, and return its curves."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(run.threads)
    pl.seed_everything(run.seed, verbose=False)
    stream = digits_stream(run.seed)
    steps = EPOCHS * len(stream.train_dataloader())
    batches = 10 if run.max_steps < 0 else min(10, run.max_steps)  # of which every point is measured
    callbacks: list[pl.Callback] = [PlasticityMonitor(every_n_steps=steps, batches=batches), ReportEpochs(queue)]
    if run.method == "continual backprop":
        callbacks.append(ContinualBackprop(REPLACEMENT_RATE, MATURITY_THRESHOLD))
    loggers = [TensorBoardLogger(run.out, run.folder, version=""), CSVLogger(run.out, run.folder, version="")]
    trainer = pl.Trainer(
        max_epochs=stream.num_epochs,
        max_steps=run.max_steps,
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), datamodule=stream)
    return run, read_curves(run.out / run.folder / "metrics.csv", steps)


def read_curves(path: Path, steps: int) -> dict[str, list[float]]:
    """Return one number per experience for every panel; what is logged per layer is averaged over the layers."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                panel = next((p for p in PANELS if f"/{p}/" in f"/{name}/"), None)
                if panel and value:
                    values[panel][int(row["step"]) // steps].append(float(value))
    return {panel: [float(np.mean(numbers)) for _, numbers in sorted(found.items())] for panel, found in values.items()}


def run_all(runs: list[Run], processes: int, console: Console) -> dict[str, dict[str, np.ndarray]]:
    """Train all networks, with one progress bar for everything; return ``[seed, experience]`` per method and panel."""
    context = multiprocessing.get_context("spawn")
    curves: dict[str, dict[str, list[list[float]]]] = {m: {p: [] for p in PANELS} for m in METHODS}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
    )
    with context.Manager() as manager, Progress(*columns, console=console) as bar:
        queue: Any = manager.Queue()
        steps_per_epoch = -(-1797 // BATCH)
        epochs = EXPERIENCES * EPOCHS if runs[0].max_steps < 0 else -(-runs[0].max_steps // steps_per_epoch)
        task = bar.add_task(f"training {len(runs)} networks", total=len(runs) * epochs)
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures = [pool.submit(train, run, queue) for run in runs]
            while not all(future.done() for future in futures):
                time.sleep(0.2)
                while not queue.empty():
                    bar.advance(task, queue.get())
            for future in futures:
                run, found = future.result()
                for panel in PANELS:
                    curves[run.method][panel].append(found[panel])
    return {method: {panel: stacked(runs) for panel, runs in found.items()} for method, found in curves.items()}


def stacked(runs: list[list[float]]) -> np.ndarray:
    length = min(map(len, runs))
    return np.array([run[:length] for run in runs])


def print_table(curves: dict[str, dict[str, np.ndarray]], console: Console) -> None:
    """Print early and late accuracy and the reasons at the end: mean and standard deviation over the seeds."""
    part = max(1, len(next(iter(curves.values()))["online_accuracy"][0]) // 10)
    table = Table(title=f"mean ± standard deviation over seeds; first and last {part} experiences", box=box.SIMPLE)
    for column in ("", "early accuracy", "late accuracy", "rank", "dormant", "weight"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for method, found in curves.items():
        cells = [found["online_accuracy"][:, :part], *(found[panel][:, -part:] for panel in PANELS)]
        means = [cell.mean(1) for cell in cells]
        table.add_row(method, *(f"{mean.mean():.3f} ± {mean.std(ddof=len(mean) > 1):.3f}" for mean in means))
    console.print(table)


def draw(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.1), layout="constrained")
    for axis, (panel, label) in zip(axes, PANELS.items(), strict=True):
        for method, colour in METHODS.items():
            values = curves[method][panel]
            x, mean, spread = np.arange(1, values.shape[1] + 1), values.mean(0), values.std(0)
            axis.plot(
                x, mean, color=colour, label=method, linewidth=1.6, linestyle="--" if method == "backprop" else "-"
            )
            axis.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel="experience", ylabel=label, xlim=(1, values.shape[1]))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower left")
    seeds = len(next(iter(curves.values()))["online_accuracy"])
    figure.suptitle(f"Digits with permuted pixels: mean ± standard deviation over {seeds} seeds", fontsize=11)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument(
        "--max-steps", type=int, default=-1, help="optimizer steps per network; -1 for the whole stream"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder of logs and figure")
    parser.add_argument("--processes", type=int, default=2, help="networks trained at the same time")
    args = parser.parse_args()
    console = Console()
    console.width = max(console.width, 120)  # the table needs them
    runs = [Run(method, seed, args.out, args.max_steps, 1) for seed in range(args.seeds) for method in METHODS]
    curves = run_all(runs, args.processes, console)
    print_table(curves, console)
    figure = args.out / "quickstart.png"
    draw(curves, figure)
    console.print(f"Figure: {figure}\nTensorBoard: uv run tensorboard --logdir {args.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
