"""UPGD and its rivals on two streams that punish forgetting and rigidity.

    uv run examples/upgd.py                                  # digits, about 9 minutes of one core
    uv run examples/upgd.py --data mnist --data-root ~/data  # the paper's networks; see --help

One sample at a time, as in Elsayed and Mahmood (ICLR 2024): in the *input-permuted* stream the pixels of each
experience are shuffled anew, in the *label-permuted* stream the labels are. Each method trains the same ReLU network
from the same start. Prints per method, as means over the experiences of the second half and over seeds: online
accuracy (before the update), plasticity p(Z) (the share of a sample's loss that the update on it removes), the share
of zero activations and the norm of the weights; writes ``upgd.csv`` and draws ``upgd.png``.

The settings are the best ones of the paper for MNIST and EMNIST where it has the method, and nothing was tuned for
UPGD. On digits, whose experiences are five times shorter, the step sizes that the paper found for SGD, S&P and AdamW on
MNIST are too small to learn anything in time: there all methods take steps of 0.01, AdamW of 0.001.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lightning_plasticity.experiments import ResultTable, provenance
from lightning_plasticity.functional.plasticity import sample_plasticity
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.optim import UPGD, UtilityGate
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.streams import PermutedInputs, PermutedLabels, load_digits_images, load_images
from lightning_plasticity.units import discover_units

HIDDEN = {"digits": (100, 50), "mnist": (300, 150), "emnist": (300, 150)}
STREAMS = {"input-permuted": PermutedInputs, "label-permuted": PermutedLabels}
DIGITS_STEP_SIZES = {"AdamW": 0.001}  # others: 0.01
COLUMNS = ("online accuracy", "plasticity", "zero activations", "weight norm")

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


class Meters:
    """What happens on each sample, as means per experience."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model, self.sums, self.count = model, torch.zeros(3), 0

    def update(self, logits: torch.Tensor, loss: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            zeros, h = [], x
            for layer in self.model:
                h = layer(h)
                if isinstance(layer, nn.ReLU):
                    zeros.append((h == 0).float().flatten())
            again = nn.functional.cross_entropy(h, y)
            right = (logits.argmax(1) == y).float().mean()
            self.sums += torch.stack([right, sample_plasticity(loss, again), torch.cat(zeros).mean()])
        self.count += 1

    def row(self) -> torch.Tensor:
        weights = [p.detach().square().sum() for p in self.model.parameters() if p.ndim > 1]
        means = torch.cat([self.sums / self.count, torch.stack(weights).sum().sqrt()[None]])
        self.sums, self.count = torch.zeros(3), 0
        return means


def samples(experience: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*experience, strict=True)
    return torch.stack(images).flatten(1) / 127.5 - 1, torch.tensor([int(label) for label in labels])


def train(job: tuple[str, str, int], options: argparse.Namespace) -> torch.Tensor:
    """Return one row of means per experience, ``[experiences, columns]``."""
    stream_name, method, seed = job
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    digits = options.data == "digits"
    data = load_digits_images() if digits else load_images(options.data.upper(), options.data_root)
    stream = STREAMS[stream_name](
        data, options.experiences, samples_per_experience=options.samples_per_experience, seed=seed
    )
    classes, pixels = int(data.tensors[1].max()) + 1, data.tensors[0][0].numel()
    sizes = (pixels, *HIDDEN[options.data])
    hidden = [layer for n, width in pairwise(sizes) for layer in (nn.Linear(n, width), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(sizes[-1], classes))
    optimizer, engine = METHODS[method](model, stream_name, torch.zeros(1, pixels))
    if digits:
        for group in optimizer.param_groups:
            group["lr"] = DIGITS_STEP_SIZES.get(method, 0.01)
    meters, rows, steps = Meters(model), [], 0
    with engine:
        for k in range(len(stream)):
            for x, y in zip(*(t.split(1) for t in samples(stream[k])), strict=True):
                if steps == options.max_steps:
                    break
                logits = model(x)
                loss = nn.functional.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                meters.update(logits, loss.detach(), x, y)
                steps += 1
            if meters.count:
                rows.append(meters.row())
    return torch.stack(rows)


def draw(results: dict[tuple[str, str], torch.Tensor], path: Path) -> None:
    """Draw means over seeds, with standard errors, one row of panels per stream."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(STREAMS), len(COLUMNS), figsize=(14, 6), sharex=True, squeeze=False)
    for (i, stream), (j, column) in product(enumerate(STREAMS), enumerate(COLUMNS)):
        for method in METHODS:
            curves = results[stream, method][:, :, j]  # [seeds, experiences]
            mean, steps = curves.mean(0), range(1, curves.shape[1] + 1)
            axes[i, j].plot(steps, mean, label=method, linewidth=1.2)
            if len(curves) > 1:
                error = curves.std(0) / len(curves) ** 0.5
                axes[i, j].fill_between(steps, mean - error, mean + error, alpha=0.2)
        axes[i, j].set(title=column if i == 0 else None, xlabel="experience" if i else None)
        axes[i, j].grid(alpha=0.3)
    for i, stream in enumerate(STREAMS):
        axes[i, 0].set_ylabel(stream)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=len(METHODS), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def record(table: ResultTable, job: tuple[str, str, int], rows: torch.Tensor) -> None:
    """Append what one run has measured, one row per experience."""
    stream, method, seed = job
    for experience, means in enumerate(rows.tolist()):
        values = {column: round(value, 5) for column, value in zip(COLUMNS, means, strict=True)}
        place = {"stream": stream, "method": method, "seed": seed, "experience": experience}
        table.append(place | values | provenance())


def report(results: dict[tuple[str, str], torch.Tensor]) -> dict[tuple[str, str], list[float]]:
    table = {}
    for stream in STREAMS:
        print(f"\n{stream:16}" + "".join(f"{column:>22}" for column in COLUMNS))
        for method in METHODS:
            late = results[stream, method][:, results[stream, method].shape[1] // 2 :].mean(1)  # [seeds, columns]
            error = late.std(0) / len(late) ** 0.5 if len(late) > 1 else torch.zeros(len(COLUMNS))
            cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(late.mean(0).tolist(), error.tolist(), strict=True)]
            print(f"{method:16}" + "".join(f"{cell:>22}" for cell in cells))
            table[stream, method] = late.mean(0).tolist()
    return table


def main(arguments: list[str] | None = None) -> dict[tuple[str, str], list[float]]:
    """Run, print and draw; return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(HIDDEN), default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with MNIST or EMNIST (balanced)")
    parser.add_argument("--experiences", type=int, default=30)
    parser.add_argument("--samples-per-experience", type=int, default=1000, help="the paper has 5000 and 2500")
    parser.add_argument("--max-steps", type=int, default=-1, help="samples per run; -1 runs all experiences")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 runs in this one")
    parser.add_argument("--out", type=Path, default=Path("runs/upgd"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = list(product(STREAMS, METHODS, range(options.seeds)))
    path = options.out / "upgd.csv"
    path.unlink(missing_ok=True)
    written, found = ResultTable(path, ("stream", "method", "seed", "experience")), {}
    with ProcessPoolExecutor(options.workers) if options.workers else nullcontext() as pool:
        runs = pool.map(train, jobs, [options] * len(jobs)) if pool else (train(job, options) for job in jobs)
        for job, rows in zip(jobs, runs, strict=True):
            found[job] = rows
            record(written, job, rows)
    results = {
        (stream, method): torch.stack([found[stream, method, seed] for seed in range(options.seeds)])
        for stream, method in product(STREAMS, METHODS)
    }
    draw(results, options.out / "upgd.png")
    table = report(results)
    print(f"\ntable: {path}, figure: {options.out / 'upgd.png'}")
    return table


if __name__ == "__main__":
    main()
