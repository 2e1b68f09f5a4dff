"""Time of an online training step fed by StreamDataModule, relative to a hand-written loop over a preloaded tensor.

    uv run benchmarks/stream.py [--json] [--pairs 10] [--samples 2000]

Both sides are a ``Trainer.fit`` with batches of one sample and the same small network: one takes its batches from
``StreamDataModule(preload=True, batch_size=1)``, the other from a loader of five lines. Runs alternate in one process;
the ratio is taken pair by pair and its median printed, so that a machine whose speed drifts does no harm. Processor
time is measured, not the clock on the wall. For comparison: the same through a ``DataLoader``.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.streams import StreamDataModule

GOAL = 1.15
EXPERIENCES = 2


class Network(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
        self.seconds = 0.0

    def on_train_start(self) -> None:
        self.seconds = -time.process_time()

    def on_train_end(self) -> None:
        self.seconds += time.process_time()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.003)


class HandWritten:
    """The least a loader can be: shuffled tensors, one slice after the other."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x))
        x, y = self.x[order], self.y[order]
        for i in range(len(x)):
            yield x[i : i + 1], y[i : i + 1]


def run(**data: Any) -> float:
    """Return the processor seconds per step of a fit."""
    torch.manual_seed(0)
    module = Network()
    trainer = pl.Trainer(
        max_epochs=EXPERIENCES,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    trainer.fit(module, **data)
    return module.seconds / trainer.global_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2000, help="samples per experience")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    x, y = torch.rand(arguments.samples, 784), torch.randint(10, (arguments.samples,))
    dataset = TensorDataset(x, y)
    sides: dict[str, Callable[[], float]] = {
        "hand_written": lambda: run(train_dataloaders=HandWritten(x, y)),
        "stream": lambda: run(datamodule=StreamDataModule([dataset] * EXPERIENCES, batch_size=1, preload=True)),
        "dataloader": lambda: run(train_dataloaders=DataLoader(dataset, 1, shuffle=True)),
    }
    sides["stream"]()  # the first fit of a process pays for imports
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.pairs):
        for name, side in sides.items():
            seconds[name].append(side())

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds["hand_written"], strict=True))

    result = {
        "benchmark": "stream",
        "ratio": round(ratio("stream"), 3),
        "goal": GOAL,
        "met": ratio("stream") <= GOAL,
        "dataloader_ratio": round(ratio("dataloader"), 3),
        "microseconds_per_step": {name: round(1e6 * statistics.median(times), 1) for name, times in seconds.items()},
        "pairs": arguments.pairs,
        "steps_per_run": EXPERIENCES * arguments.samples,
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:22} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
