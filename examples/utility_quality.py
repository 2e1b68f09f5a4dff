"""How well cheap utilities rank weights by what the loss would be without them.

    uv run examples/utility_quality.py                       # about 5 minutes of one core
    uv run examples/utility_quality.py --seeds 2 --max-steps 100

Figure 2 of Elsayed and Mahmood (ICLR 2024) done anew. A network 5-50-1 learns the sum of two of its five inputs, one
sample at a time. After each sample every weight and bias is set to zero in turn; the rise of the loss is the truth. The
table shows the Spearman correlation with it (ties get their mean rank: dead units make many exact zeros) of first- and
second-order utility, magnitude, squared gradient and chance, over all weights and averaged over training and seeds.
The published figure shows lower values for all of them, because it correlates sorting permutations instead of ranks.
Expect for ReLU .78 (first order) and .95 (second order), for leaky ReLU .83 and .98, for tanh .60 and 1.00; first order
loses ground along training, second order does not.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import nn

from lightning_plasticity.experiments import ResultTable, provenance
from lightning_plasticity.functional.upgd import weight_utility
from lightning_plasticity.optim import HesScale

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}
MEASURES = ("second order", "first order", "squared gradient", "magnitude", "random")
LEARNING_RATE, HIDDEN, INPUTS = 0.01, 50, 5


def loss_without_each_weight(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss without weight ``i``, for all weights in the order of the parameters."""
    (w1, b1), (w2, b2) = ([p.detach() for p in model[i].parameters()] for i in (0, 2))
    z = w1 @ x + b1  # [H]

    def loss(hidden: torch.Tensor, readout: torch.Tensor = w2, bias: torch.Tensor = b2) -> torch.Tensor:
        return (model[1](hidden) @ readout.T + bias - y).square().reshape(-1)

    def one_changed(values: torch.Tensor) -> torch.Tensor:  # [H] -> [H, H], each row with one pre-activation changed
        return torch.where(torch.eye(HIDDEN, dtype=torch.bool), values, z)

    first = torch.stack([loss(one_changed(z - w1[:, i] * x[i])) for i in range(INPUTS)], dim=1)
    readouts = w2 * (1 - torch.eye(HIDDEN))
    last = (readouts @ model[1](z) + b2 - y).square()
    return torch.cat([first.flatten(), loss(one_changed(z - b1)), last, loss(z, w2, torch.zeros(1))])


def train(seed: int, activation: str, steps: int) -> torch.Tensor:
    """Return the correlation of every measure with the truth at every step, ``[steps, measures]``."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), ACTIVATIONS[activation](), nn.Linear(HIDDEN, 1))
    hesscale, parameters = HesScale(model), list(model.parameters())
    chosen = torch.randperm(INPUTS)[:2]
    found = []
    for _ in range(steps):
        x = torch.rand(INPUTS) - 0.5
        y = x[chosen].sum()
        model.zero_grad()
        loss = (model(x[None])[0, 0] - y).square()
        hesscale.watch(loss).backward()
        w = torch.cat([p.detach().flatten() for p in parameters])
        g = torch.cat([p.grad.flatten() for p in parameters])
        h = torch.cat([hesscale.take(p).flatten() for p in parameters])
        truth = loss_without_each_weight(model, x, y) - loss.detach()
        measures = (weight_utility(w, g, h), weight_utility(w, g), g.square(), w.abs(), torch.rand_like(w))
        found.append([spearmanr(truth, measure).statistic for measure in measures])
        with torch.no_grad():
            for p in parameters:
                p -= LEARNING_RATE * p.grad
    return torch.tensor(found)


def draw(curves: dict[str, torch.Tensor], path: Path) -> None:
    """Draw the correlations along training, one panel per activation."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), sharey=True, squeeze=False)
    for axis, (activation, values) in zip(axes[0], curves.items(), strict=True):
        bins = max(1, values.shape[1] // 100)
        smooth = values[:, : values.shape[1] // bins * bins].unflatten(1, (-1, bins)).mean(2)  # [seeds, bins, measures]
        steps = torch.arange(smooth.shape[1]) * bins
        for i, measure in enumerate(MEASURES):
            of_seeds = smooth[:, :, i]
            mean, error = of_seeds.mean(0), of_seeds.std(0, correction=0) / len(of_seeds) ** 0.5
            axis.plot(steps, mean, label=measure)
            axis.fill_between(steps, mean - error, mean + error, alpha=0.2)
        axis.set(title=activation, xlabel="step", ylim=(-0.1, 1.03))
    axes[0, 0].set_ylabel("Spearman correlation")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=len(MEASURES), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def summary(values: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard error over seeds of the correlation of every measure, averaged over training."""
    means = values.nanmean(1)  # [seeds, measures]
    error = means.std(0) / len(means) ** 0.5 if len(means) > 1 else torch.zeros(len(MEASURES))
    return means.mean(0).tolist(), error.tolist()


def record(curves: dict[str, torch.Tensor], source: dict[str, str], path: Path) -> None:
    """Write the table."""
    path.unlink(missing_ok=True)
    table = ResultTable(path, ("activation", "measure"))
    for activation, values in curves.items():
        for measure, mean, error in zip(MEASURES, *summary(values), strict=True):
            row = {"activation": activation, "measure": measure, "spearman": round(mean, 4), "error": round(error, 4)}
            table.append(row | {"seeds": len(values), "steps": values.shape[1]} | source)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Run, print and draw; return the mean correlations by activation and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=2000, help="samples per run")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--activations", nargs="+", choices=list(ACTIVATIONS), default=list(ACTIVATIONS))
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 runs in this one")
    parser.add_argument("--out", type=Path, default=Path("runs/utility_quality"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    curves, table, source = {}, {}, provenance()
    print(f"{'':12}" + "".join(f"{measure:>20}" for measure in MEASURES))
    for activation in options.activations:
        run = partial(train, activation=activation, steps=options.max_steps)
        if options.workers:
            with ProcessPoolExecutor(options.workers) as pool:
                runs = list(pool.map(run, range(options.seeds)))
        else:
            runs = [run(seed) for seed in range(options.seeds)]
        curves[activation] = torch.stack(runs)
        means, error = summary(curves[activation])
        cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(means, error, strict=True)]
        print(f"{activation:12}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
        table[activation] = dict(zip(MEASURES, means, strict=True))
    record(curves, source, options.out / "utility_quality.csv")
    draw(curves, options.out / "utility_quality.png")
    print(f"table and figure: {options.out}")
    return table


if __name__ == "__main__":
    main()
