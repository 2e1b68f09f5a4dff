"""What measuring plasticity costs: the streaming effective rank beside an SVD, and the monitor beside plain training.

    uv run benchmarks/metrics.py [--json] [--repeats 5] [--only monitor_mlp2000]

Everything runs on one thread, and processor time is measured, not the clock on the wall.

effective_rank_vs_svd   20 batches of 1000 samples of 2048 features through `EffectiveRank`, relative to `svdvals` of
                        the 20 000 samples at once; median of pairs.
memory_when_n_doubles   Largest state of `EffectiveRank` after 20 000 samples of 256 features, relative to 10 000.
sketch_error_vs_bound   1024 features with `max_features=128`: largest error of a squared singular value, relative to
                        the metric's own `error_bound`. The effective rank is off by what `sketch_effective_rank` says.
monitor_*               Step time with `PlasticityMonitor(every_n_steps=100)` and its default metrics, relative to
                        without. One fit measures every 20 steps, so that the 10 batches of a measurement and 10 plain
                        steps alternate; their difference, median over the pairs, is what a period of 100 steps pays.
                        `resnet18` begins with a 3x3 convolution and does not pool, as is usual at 32x32;
                        `resnet18_imagenet` is torchvision's as it comes, whose steps are five times as short.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import lightning.pytorch as pl
import torch
import torchvision
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks import PlasticityMonitor
from lightning_plasticity.functional import effective_rank
from lightning_plasticity.metrics import EffectiveRank

PERIOD, WINDOW = 100, 10


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def stream(features: Tensor, batch: int, **options: int) -> EffectiveRank:
    metric = EffectiveRank(**options)
    for part in features.split(batch):
        metric.update(part)
    return metric


def effective_rank_vs_svd(repeats: int) -> float:
    features = torch.randn(20_000, 2048, dtype=torch.float64)
    return statistics.median(
        seconds(lambda: stream(features, 1000).compute()) / seconds(lambda: torch.linalg.svdvals(features))
        for _ in range(min(repeats, 3))
    )


def memory_when_n_doubles(repeats: int) -> float:
    def largest(samples: int) -> int:
        metric, sizes = EffectiveRank(), []
        for part in torch.randn(samples, 256).split(100):
            metric.update(part)
            states = [getattr(metric, name) for name in metric._defaults]
            sizes.append(sum(t.nbytes for state in states for t in (state if isinstance(state, list) else [state])))
        return max(sizes)

    return largest(20_000) / largest(10_000)


def decaying_features() -> Tensor:
    """Return features of 1024 dimensions with a spectrum that falls as a power of the index."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(1024, 1024, dtype=torch.float64, generator=generator)).Q
    scale = torch.arange(1, 1025, dtype=torch.float64).pow(-1.0)
    return torch.randn(4000, 1024, dtype=torch.float64, generator=generator) * scale @ basis.mT


def sketch_error_vs_bound(repeats: int) -> float:
    features = decaying_features()
    metric = stream(features, 200, max_features=128)
    error = metric.singular_values().square() - torch.linalg.svdvals(features).square()
    return float(error.abs().max() / metric.error_bound())


def sketch_effective_rank(repeats: int) -> float:
    features = decaying_features()
    return float(stream(features, 200, max_features=128).compute() / effective_rank(features))


class Classifier(pl.LightningModule):
    def __init__(self, net: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.net, self.example_input_array = net, example

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.003)


class Timer(pl.Callback):
    """Notes the processor time at the beginning of every batch, before any other callback."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *args: object) -> None:
        self.times.append(time.process_time())

    def steps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def monitored(net: nn.Module, shape: tuple[int, ...], repeats: int) -> float:
    # as many batches as a measurement and the plain steps after it take: no sample is measured twice
    data = TensorDataset(torch.randn(20 * shape[0], *shape[1:]), torch.randint(10, (20 * shape[0],)))
    timer, monitor = Timer(), PlasticityMonitor(every_n_steps=2 * WINDOW, batches=WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=2 * WINDOW * (repeats + 1) + 1,
            accelerator="cpu",
            callbacks=[timer, monitor],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(net, data.tensors[0][:2]), DataLoader(data, batch_size=shape[0]))
    return statistics.median(ratios(timer.steps()))


def ratios(steps: list[float]) -> Iterator[float]:
    """Yield the relative cost for every period, from the second on: the first warms up."""
    for start in range(2 * WINDOW, len(steps) - 2 * WINDOW + 1, 2 * WINDOW):
        measured, plain = sum(steps[start : start + WINDOW]), sum(steps[start + WINDOW : start + 2 * WINDOW])
        yield 1 + (measured - plain) / (plain * PERIOD / WINDOW)


def monitor_resnet18(repeats: int) -> float:
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return monitored(net, (16, 3, 32, 32), repeats)


def monitor_resnet18_imagenet(repeats: int) -> float:
    return monitored(torchvision.models.resnet18(num_classes=10), (16, 3, 32, 32), repeats)


def monitor_mlp2000(repeats: int) -> float:
    layers = [layer for inputs in (784, 2000, 2000) for layer in (nn.Linear(inputs, 2000), nn.ReLU())]
    return monitored(nn.Sequential(*layers, nn.Linear(2000, 10)), (32, 784), repeats)


CASES = {
    "effective_rank_vs_svd": (effective_rank_vs_svd, 0.6),
    "memory_when_n_doubles": (memory_when_n_doubles, 1.0),
    "sketch_error_vs_bound": (sketch_error_vs_bound, 1.0),
    "sketch_effective_rank": (sketch_effective_rank, 2.0),
    "monitor_mlp2000": (monitor_mlp2000, 1.03),
    "monitor_resnet18": (monitor_resnet18, 1.03),
    "monitor_resnet18_imagenet": (monitor_resnet18_imagenet, 1.03),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="pairs per row")
    parser.add_argument("--only", choices=CASES, help="a single row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = [
        {"name": name, "ratio": round(function(args.repeats), 3), "goal": goal}
        for name, (function, goal) in CASES.items()
        if args.only in {None, name}
    ]
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        for row in rows:
            print(f"{row['name']:26} {row['ratio']:6.3f}  goal {row['goal']}")


if __name__ == "__main__":
    main()
