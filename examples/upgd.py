"""UPGD and its rivals on two streams that punish forgetting and rigidity.

    uv run examples/upgd.py                                    # digits, about 8 minutes of one core
    uv run examples/upgd.py --data-root DATA --max-steps 1000000       # MNIST, the paper's networks and lengths
    uv run examples/upgd.py --data-root DATA --images emnist47 --streams label-permuted

One sample at a time, as in Elsayed and Mahmood (ICLR 2024): in the *input-permuted* stream the pixels of each
experience are shuffled anew, in the *label-permuted* stream the labels are. Each method trains the same ReLU network
from the same start. Prints per method, as means over the experiences of the second half and over seeds: online
accuracy (before the update), plasticity p(Z) (the share of a sample's loss that the update on it removes), the share
of zero activations, the norm of the weights, and by how much its accuracy exceeds that of SGD on the same seeds.
Writes ``OUT/upgd.csv``, one row per experience, and a figure per stream; a run that is in the table already is not made
again.

The settings are the best ones of the paper for MNIST and EMNIST where it has the method. On digits, whose experiences
are shorter, those step sizes are too small to learn anything in time: there every method takes that one of 0.0003,
0.001, 0.003, 0.01 and 0.03 (``--step-size``) with which it is most accurate in a short run of a seed not shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import TensorDataset

from lightning_plasticity.experiments import Panel, ResultTable, draw_panels, mean_and_error, provenance, seed_curves
from lightning_plasticity.functional.plasticity import sample_plasticity
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.optim import UPGD, UtilityGate
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.streams import PermutedInputs, PermutedLabels, load_digits_images, load_images, read_tensors
from lightning_plasticity.units import discover_units

STREAMS = {"input-permuted": PermutedInputs, "label-permuted": PermutedLabels}
PUBLISHED_LENGTHS = {"input-permuted": 5000, "label-permuted": 2500}  # samples per experience
KEY = ("images", "stream", "method", "step_size", "samples_per_experience", "max_steps", "seed", "experience")
PANELS = (
    Panel("online_accuracy", "online accuracy (%)", 100),
    Panel("plasticity", "plasticity p(Z)"),
    Panel("zero_activations", "zero activations (%)", 100),
    Panel("weight_norm", "norm of the weights"),
)

Setup = tuple[Optimizer, AbstractContextManager[object]]


def settings(stream: str) -> dict[str, float]:
    """Return the paper's best settings of UPGD for the stream."""
    if stream == "input-permuted":
        return {"lr": 0.01, "noise_std": 0.1, "decay_rate": 0.9999, "weight_decay": 0.01}
    return {"lr": 0.01, "noise_std": 0.001, "decay_rate": 0.9, "weight_decay": 0.0}


def sgd(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    lr, decay = (0.001, 0.001) if stream == "input-permuted" else (0.01, 0.0001)
    return SGD(model.parameters(), lr, weight_decay=decay), nullcontext()


def adamw(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    beta2, decay = (0.99, 0.0) if stream == "input-permuted" else (0.9999, 0.1)
    return AdamW(model.parameters(), 1e-4, betas=(0.0, beta2), weight_decay=decay), nullcontext()


def shrink_and_perturb(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    lr, noise, decay = (0.001, 0.1, 0.01) if stream == "input-permuted" else (0.01, 0.01, 0.001)
    return UPGD(model.parameters(), lr, noise_std=noise, weight_decay=decay, scaling="none"), nullcontext()


def upgd_global(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    return UPGD(model.parameters(), **settings(stream)), nullcontext()


def upgd_local(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    return UPGD(model.parameters(), scaling="local", **settings(stream)), nullcontext()


def upgd_units(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    lr, noise, decay = (0.01, 0.1, 0.01) if stream == "input-permuted" else (0.01, 0.01, 0.001)
    optimizer = SGD(model.parameters(), lr, weight_decay=decay)
    return optimizer, UtilityGate(optimizer, noise_std=noise, decay_rate=0.9999, units=discover_units(model, x))


def backprop_with_replacement(model: nn.Module, stream: str, x: torch.Tensor) -> Setup:
    optimizer, _ = sgd(model, stream, x)
    return optimizer, UnitReplacer(continual_backprop(1e-4, 1000), discover_units(model, x), optimizer)


METHODS: dict[str, Callable[[nn.Module, str, torch.Tensor], Setup]] = {
    "SGD": sgd,
    "AdamW": adamw,
    "S&P": shrink_and_perturb,
    "UPGD global": upgd_global,
    "UPGD local": upgd_local,
    "UPGD units": upgd_units,
    "CBP": backprop_with_replacement,
}
DIGITS_STEP_SIZES = {
    "input-permuted": dict.fromkeys(METHODS, 0.03) | {"SGD": 0.01, "AdamW": 0.003, "S&P": 0.01, "CBP": 0.01},
    "label-permuted": dict.fromkeys(METHODS, 0.03) | {"AdamW": 0.003},
}


class Meters:
    """What happens on each sample, as means per experience."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model, self.sums, self.count = model, torch.zeros(3), 0

    @torch.no_grad()
    def update(self, logits: torch.Tensor, loss: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        zeros, h = [], x
        for layer in self.model:
            h = layer(h)
            if isinstance(layer, nn.ReLU):
                zeros.append((h == 0).float().flatten())
        again = nn.functional.cross_entropy(h, y)
        right = (logits.argmax(1) == y).float().mean()
        self.sums += torch.stack([right, sample_plasticity(loss, again), torch.cat(zeros).mean()])
        self.count += 1

    def row(self) -> dict[str, float]:
        """Return the means since the last row, and the norm of the weights as it is."""
        norm = torch.stack([p.detach().square().sum() for p in self.model.parameters() if p.ndim > 1]).sum().sqrt()
        means = [*(self.sums / self.count).tolist(), float(norm)]
        self.sums, self.count = torch.zeros(3), 0
        return {panel.column: round(value, 5) for panel, value in zip(PANELS, means, strict=True)}


def read_images(options: argparse.Namespace) -> TensorDataset:
    """Return the training images, flat, as numbers in [-1, 1]."""
    images = load_images(options.images, options.data_root) if options.data_root else load_digits_images()
    x, y = images.tensors
    return TensorDataset(x.flatten(1) / 127.5 - 1, y)


def network(pixels: int, classes: int, hidden: Sequence[int]) -> nn.Sequential:
    layers = [layer for n, width in pairwise((pixels, *hidden)) for layer in (nn.Linear(n, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def train(run: dict[str, str | int], options: argparse.Namespace) -> list[dict[str, float]]:
    """Return what one run measures, one row per experience."""
    stream_name, method, seed = run["stream"], run["method"], run["seed"]
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images = read_images(options)
    pixels, classes = images.tensors[0].shape[1], int(images.tensors[1].max()) + 1
    length = run["samples_per_experience"]
    stream = STREAMS[stream_name](images, -(-options.max_steps // length), samples_per_experience=length, seed=seed)
    model = network(pixels, classes, (300, 150) if options.data_root else (100, 50))
    optimizer, engine = METHODS[method](model, stream_name, torch.zeros(1, pixels))
    step_size = options.step_size or (None if options.data_root else DIGITS_STEP_SIZES[stream_name][method])
    for group in optimizer.param_groups:
        group["lr"] = step_size or group["lr"]
    meters, rows = Meters(model), []
    with engine:
        for experience in stream:
            for x, y in zip(*(t.split(1) for t in read_tensors(experience)), strict=True):
                logits = model(x)
                loss = nn.functional.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                meters.update(logits, loss.detach(), x, y)
            rows.append(meters.row())
    return rows


def constants(stream: str, options: argparse.Namespace) -> dict[str, str | int]:
    """Return what the runs of a stream have in common."""
    return {
        "images": options.images,
        "stream": stream,
        "step_size": options.step_size or "default",
        "samples_per_experience": experience_length(stream, options),
        "max_steps": options.max_steps,
    }


def experience_length(stream: str, options: argparse.Namespace) -> int:
    wish = options.samples_per_experience or (PUBLISHED_LENGTHS[stream] if options.data_root else 1000)
    return min(wish, options.max_steps)


def report(rows: Sequence[dict[str, str]]) -> None:
    """Print the means over the second half of a stream and over seeds, with standard errors over seeds.

    The last column pairs every seed of a method with the same seed of SGD: equal images, order and first weights.
    """
    seeds = len({row["seed"] for row in rows})
    title = f"{rows[0]['images']}, {rows[0]['stream']}, {seeds} seed" + "s" * (seeds != 1)
    heads = [*(panel.label for panel in PANELS), "accuracy minus SGD's"]
    print(f"{title:34}" + "".join(f"{head:>24}" for head in heads))
    late = [second_half(rows, panel) for panel in PANELS]
    for method in late[0]:
        columns = [values[method] for values in late]
        rival = late[0].get("SGD")
        if rival is not None and rival.shape == columns[0].shape:
            columns.append(columns[0] - rival)
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in map(mean_and_error, columns)]
        print(f"{method:34}" + "".join(f"{cell:>24}" for cell in cells))


def second_half(rows: Sequence[dict[str, str]], panel: Panel) -> dict[str, torch.Tensor]:
    """Return the means over the second half of a stream by method, one per seed."""
    curves = seed_curves(rows, panel.column)
    return {name: panel.factor * curve[:, curve.shape[1] // 2 :].nanmean(1) for name, curve in curves.items()}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder that holds the images; without it, digits")
    parser.add_argument("--images", default="MNIST", help="what `load_images` is to read below DATA_ROOT")
    parser.add_argument("--streams", choices=list(STREAMS), nargs="+", default=list(STREAMS))
    parser.add_argument("--methods", choices=list(METHODS), nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples-per-experience", type=int, help="default 1000 on digits, else 5000 and 2500")
    parser.add_argument(
        "--max-steps", type=int, default=30_000, help="samples per run, in whole experiences; the paper has 1 000 000"
    )
    parser.add_argument("--step-size", type=float, help="of all methods")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 runs in this one")
    parser.add_argument("--out", type=Path, default=Path("runs/upgd"))
    options = parser.parse_args(arguments)
    options.images = options.images if options.data_root else "digits"
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the table yet, print and draw."""
    options = parsed(arguments)
    table, source = ResultTable(options.out / "upgd.csv", KEY), provenance()
    jobs = [
        constants(stream, options) | {"method": method, "seed": seed}
        for seed, stream, method in product(options.seeds, options.streams, options.methods)
    ]
    jobs = [job for job in jobs if job | {"experience": 0} not in table]
    with ProcessPoolExecutor(options.workers) if options.workers else nullcontext() as pool:
        found = (pool.map if pool else map)(train, jobs, [options] * len(jobs))
        for job, rows in zip(jobs, found, strict=True):
            for experience, means in enumerate(rows):
                table.append(job | {"experience": experience} | means | source)
    for stream in options.streams:
        wanted = {name: str(value) for name, value in constants(stream, options).items()}
        rows = [row for row in table.rows() if wanted.items() <= row.items()]
        report(rows)
        figure = options.out / f"upgd_{options.images}_{stream}.png"
        draw_panels(rows, figure, PANELS, xlabel=f"experience ({experience_length(stream, options)} samples each)")
    print(f"table and figures: {options.out}")


if __name__ == "__main__":
    main()
