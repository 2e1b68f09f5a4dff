"""Time of a training step with Continual Backprop relative to one without, in a bare loop on one thread.

    uv run benchmarks/replacement_overhead.py [--json] [--pairs 30] [--only mlp100_b1] [--floor]

Plain and treated blocks of steps alternate in one process; the ratio is taken pair by pair and its median printed, so
that a machine whose speed drifts does no harm. Processor time is measured, not the clock on the wall. The published
code needs 1.95, 2.15, 1.88 and 1.08 (measured on the same tasks). Memory is the growth of the process's peak in a
process of its own, in relation to the same without replacement. ``--floor`` adds two rows per MLP: ``by_hand``, what
the bare sums of the utility cost when they are written by hand for the one network (no ages, no checks, no
replacement), and ``read_only``, what it costs to do nothing but read every outgoing weight once after the step
(``torch.mv`` with ones), as any implementation must that takes the weights after the step and leaves the optimizer
alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import nn

from lightning_plasticity import UnitReplacer, discover_units
from lightning_plasticity.functional.utility import absolute_sum
from lightning_plasticity.methods import continual_backprop


def mlp(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (784, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def resnet18() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


# name: (model, shape of a batch, steps per block, goal)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, float]] = {
    "mlp100_b1": (lambda: mlp(100), (1, 784), 200, 1.30),
    "mlp2000_b1": (lambda: mlp(2000), (1, 784), 10, 1.20),
    "mlp2000_b32": (lambda: mlp(2000), (32, 784), 6, 1.08),
    "resnet18_b16": (resnet18, (16, 3, 32, 32), 1, 1.02),
}


def sum_by_hand(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """Keep the running contribution of every hidden unit of an MLP, in as few calls as a Python loop can."""
    readers = [layer for layer in model if isinstance(layer, nn.Linear)][1:]
    seen, outgoing, utility = ([torch.zeros(reader.in_features) for reader in readers] for _ in range(3))

    def before(total: torch.Tensor, layer: nn.Module, args: tuple[torch.Tensor]) -> None:
        absolute_sum(args[0].detach(), 1, total)

    for reader, total in zip(readers, seen, strict=True):
        reader.register_forward_pre_hook(partial(before, total))

    def after_step(*_: object) -> None:
        for reader, total in zip(readers, outgoing, strict=True):
            absolute_sum(reader.weight.detach(), 1, total)
        torch._foreach_mul_(utility, 0.99)
        torch._foreach_addcmul_(utility, seen, outgoing, value=0.01)

    optimizer.register_step_post_hook(after_step)


def only_read(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """Read every outgoing weight once after the step, and do nothing with it."""
    readers = [layer for layer in model if isinstance(layer, nn.Linear)][1:]
    ones = [torch.ones(reader.out_features) for reader in readers]

    def after_step(*_: object) -> None:
        for reader, each in zip(readers, ones, strict=True):
            torch.mv(reader.weight.detach().t(), each)

    optimizer.register_step_post_hook(after_step)


def replace_units(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> None:
    UnitReplacer(continual_backprop(1e-4, 100), discover_units(model, inputs), optimizer).attach()


Treatment = Callable[[nn.Module, torch.optim.Optimizer, torch.Tensor], object]
FLOORS: dict[str, Treatment] = {
    "by_hand": lambda model, optimizer, _: sum_by_hand(model, optimizer),
    "read_only": lambda model, optimizer, _: only_read(model, optimizer),
}


def build(name: str, treatment: Treatment | None) -> Callable[[], None]:
    """Return a function that makes one training step."""
    make, shape, _, _ = CASES[name]
    torch.manual_seed(0)
    model, inputs, targets = make(), torch.randn(shape), torch.randint(10, shape[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    if treatment is not None:
        treatment(model, optimizer, inputs)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        step()
    return time.process_time() - start


def ratio(name: str, pairs: int, treatment: Treatment = replace_units) -> float:
    steps = CASES[name][2]
    plain, treated = build(name, None), build(name, treatment)
    seconds(plain, steps), seconds(treated, steps)
    return statistics.median(seconds(treated, steps) / seconds(plain, steps) for _ in range(pairs))


def peak_megabytes(name: str, *, treated: bool) -> float:
    """Peak memory of a process that trains for a few steps."""
    command = [sys.executable, __file__, "--peak", name, *(["--treated"] if treated else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--pairs", type=int, default=30, help="pairs of blocks per case")
    parser.add_argument("--only", choices=CASES, help="a single case")
    parser.add_argument("--floor", action="store_true", help="add what bare sums, and a bare look, cost")
    parser.add_argument("--peak", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--treated", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        seconds(build(args.peak, replace_units if args.treated else None), 5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows = [
        {"name": name, "ratio": round(ratio(name, args.pairs), 3), "goal": case[3]}
        for name, case in CASES.items()
        if args.only in {None, name}
    ]
    if args.floor:
        rows += [
            {
                "name": f"{row['name']}_{floor}",
                "ratio": round(ratio(row["name"], args.pairs, act), 3),
                "goal": row["goal"],
            }
            for row in list(rows)
            if row["name"].startswith("mlp")
            for floor, act in FLOORS.items()
        ]
    name = args.only or "mlp2000_b32"
    memory = peak_megabytes(name, treated=True) / peak_megabytes(name, treated=False)
    rows.append({"name": f"peak_memory_{name}", "ratio": round(memory, 3), "goal": 1.02})
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        for row in rows:
            print(f"{row['name']:28} {row['ratio']:6.3f}  goal {row['goal']}")


if __name__ == "__main__":
    main()
