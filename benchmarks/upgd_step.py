"""Step time of ``optim.UPGD`` beside a plain loop over its equations, and beside AdamW with noise drawn.

    python benchmarks/upgd_step.py --json

One thread, processor time (on a machine with nothing else to do that is the time on the clock). A ratio is the median,
over rounds, of the quotient of two times taken one right after the other, in turn first; what else the machine does
then weighs on both.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from lightning_plasticity.optim import UPGD

SETTINGS = {"lr": 1e-5, "weight_decay": 1e-3, "decay_rate": 0.999, "noise_std": 1e-3}


def mlp2000():
    sizes = (784, 2000, 2000, 2000, 10)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def resnet18():
    from torchvision.models import resnet18 as make

    return make(num_classes=10)


def with_gradients(make):
    torch.manual_seed(0)
    parameters = list(make().parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 0.01
    return parameters


class Loop:
    """The published equations, one parameter at a time."""

    def __init__(self, parameters):
        self.parameters, self.utilities, self.t = parameters, [torch.zeros_like(p) for p in parameters], 0

    @torch.no_grad()
    def step(self):
        lr, weight_decay, decay_rate, noise_std = SETTINGS.values()
        self.t += 1
        largest = torch.tensor(-torch.inf)
        for parameter, utility in zip(self.parameters, self.utilities, strict=True):
            utility.mul_(decay_rate).add_(-parameter.grad * parameter, alpha=1 - decay_rate)
            largest = torch.maximum(largest, utility.max())
        corrected = 1 - decay_rate**self.t
        for parameter, utility in zip(self.parameters, self.utilities, strict=True):
            noise = torch.randn_like(parameter) * noise_std
            scaled = torch.sigmoid((utility / corrected) / largest)
            parameter.mul_(1 - lr * weight_decay).add_((parameter.grad + noise) * (1 - scaled), alpha=-lr)


def ours(make, **changes):
    return UPGD(with_gradients(make), seed=0, **(SETTINGS | changes)).step


def loop(make):
    return Loop(with_gradients(make)).step


def noise_and_adamw(make):
    parameters = with_gradients(make)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    noises = [torch.empty_like(parameter) for parameter in parameters]

    def step():
        for noise in noises:
            noise.normal_(0.0, 1e-3, generator=generator)
        optimizer.step()

    return step


def adamw_foreach(make):
    return torch.optim.AdamW(with_gradients(make), lr=1e-5, weight_decay=1e-3, foreach=True).step


def ratio(one, other, rounds):
    def timed(step):
        start = time.process_time()
        step()
        return time.process_time() - start

    for _ in range(2):
        one(), other()
    quotients, times = [], []
    for i in range(rounds):
        if i % 2:
            b, a = timed(other), timed(one)
        else:
            a, b = timed(one), timed(other)
        quotients.append(a / b)
        times.append((a, b))
    fastest = [1e3 * min(column) for column in zip(*times, strict=True)]
    return statistics.median(quotients), *fastest


def rows(rounds, only=None):
    pairs = [
        ("mlp2000_vs_loop", 0.6, lambda: ours(mlp2000), lambda: loop(mlp2000)),
        ("mlp2000_vs_noise_adamw", 1.35, lambda: ours(mlp2000), lambda: noise_and_adamw(mlp2000)),
        ("resnet18_vs_loop", 0.6, lambda: ours(resnet18), lambda: loop(resnet18)),
        ("resnet18_vs_noise_adamw", 1.35, lambda: ours(resnet18), lambda: noise_and_adamw(resnet18)),
        ("mlp2000_nonoise_vs_adamw_foreach", 1.1, lambda: ours(mlp2000, noise_std=0.0), lambda: adamw_foreach(mlp2000)),
    ]
    for name, goal, one, other in pairs:
        if only and name not in only:
            continue
        value, mine, theirs = ratio(one(), other(), rounds)
        yield {"name": name, "ratio": round(value, 3), "goal": goal, "ms": round(mine, 1), "other_ms": round(theirs, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--only", nargs="*", help="names of rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in rows(arguments.rounds, arguments.only):
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            met = "met" if row["ratio"] <= row["goal"] else "missed"
            times = f"{row['ms']} ms / {row['other_ms']} ms"
            print(f"{row['name']:35} {row['ratio']:.3f} (goal {row['goal']}: {met})  {times}")


if __name__ == "__main__":
    main()
