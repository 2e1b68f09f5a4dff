"""Find and prove the units of every classification model of torchvision, and of the models of the test zoo.

    uv run benchmarks/unit_discovery.py [--filter 'resnet|vit'] [--json] [--write benchmarks/results] [--list]

Every model has random weights and runs in a process of its own, which is how its memory is measured. Images have the
smallest size that the model takes, three of them in a batch. *ratio* is the time of discovery over that of one forward
pass (evaluation mode, without gradients), medians of five rounds of both, in processor time of one thread.
The proof runs on two of the images, in double precision.
"""

from __future__ import annotations

import argparse
import csv
import gc
import inspect
import json
import multiprocessing
import re
import resource
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import torchvision
from torch import nn

from lightning_plasticity.units import discover_units, verify_units

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import zoo

SIZES = (32, 64, 96, 128, 224, 299)
ROUNDS = 5
COLUMNS = (
    "model", "parameters", "input", "groups", "coupled", "units", "coverage", "forward_s", "discovery_s", "ratio",
    "proven", "runs", "proof_s", "peak_gb", "note",
)  # fmt: skip


def models() -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    """Return by name a function that returns a model and inputs that it takes."""
    names = torchvision.models.list_models(module=torchvision.models)
    return {f"torchvision/{name}": lambda name=name: classifier(name) for name in names} | {
        f"zoo/{name}": lambda name=name: zoo.make(name) for name in zoo.ZOO
    }


def classifier(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a classifier of torchvision and the smallest batch of images that it takes."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if "init_weights" in inspect.signature(getattr(torchvision.models, name)).parameters or name in SLOW_INITS:
        options["init_weights"] = True
    if name.startswith("vit_"):  # the number of positions is part of the model: two by two patches
        options["image_size"] = 28 if "14" in name else 32
    model = torchvision.models.get_model(name, **options)
    buffers = [buffer.clone() for buffer in model.buffers()]
    for size in (options["image_size"],) if "image_size" in options else SIZES:
        images = torch.randn(3, 3, size, size)
        try:
            with torch.no_grad():
                for training in (False, True):
                    model.train(training)(images)
        except (RuntimeError, ValueError, AssertionError):
            continue
        break
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)
    return model.eval(), images


SLOW_INITS = frozenset({"googlenet", "inception_v3"})  # without the option they warn


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one model."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, inputs = models()[name]()
    row: dict[str, Any] = {"model": name, "parameters": sum(p.numel() for p in model.parameters())}
    row["input"] = "x".join(map(str, inputs.shape)) if isinstance(inputs, torch.Tensor) else type(inputs).__name__
    gc.collect()  # what the imports left behind is not discovery's
    times = []
    for _ in range(ROUNDS + 1):  # in turn, so that what else the machine does meets both
        start = time.process_time()
        with torch.no_grad():
            zoo.run(model.eval(), inputs)
        middle = time.process_time()
        unit_map = discover_units(model, inputs, residual="group")
        times.append((middle - start, time.process_time() - middle))
    forward, seconds = map(statistics.median, zip(*times[1:], strict=True))
    row |= {
        "groups": len(unit_map),
        "coupled": sum(group.coupled for group in unit_map),
        "units": sum(group.size for group in unit_map),
        "coverage": round(unit_map.coverage, 3),
        "forward_s": round(forward, 4),
        "discovery_s": round(seconds, 3),
        "ratio": round(seconds / forward, 1),
        "reasons": sorted({f"{skip.layer}: {skip.reason}" for skip in unit_map.skipped}),
    }
    if not options.no_proof:
        row |= proof(model, inputs, unit_map)
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return row


def proof(model: nn.Module, inputs: Any, unit_map: Any) -> dict[str, Any]:
    """Return what was proven of the groups."""
    inputs = inputs[:2] if isinstance(inputs, torch.Tensor) else inputs  # a batch norm needs two
    start = time.process_time()
    proofs = verify_units(model, inputs, unit_map)
    return {
        "proven": f"{sum(proof.proven for proof in proofs)}/{len(proofs)}",
        "runs": proofs.runs,
        "proof_s": round(time.process_time() - start, 1),
        "problems": [f"{proof.group}: {problem}" for proof in proofs for problem in proof.problems],
        "note": "WRONG" if proofs.failed else "",
    }


def in_a_process_of_its_own(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a model, or one that says what went wrong."""
    context = multiprocessing.get_context("fork")
    rows = context.Queue()
    process = context.Process(target=_work, args=(name, options, rows))
    process.start()
    deadline = time.monotonic() + options.timeout
    row = {"model": name, "note": f"no result within {options.timeout} s"}
    while time.monotonic() < deadline:
        try:
            row = rows.get(timeout=1)
            break
        except Empty:
            if not process.is_alive():
                row["note"] = f"the process ended with exit code {process.exitcode}"
                break
    process.terminate()
    process.join()
    return row


def _work(name: str, options: argparse.Namespace, rows: Any) -> None:
    try:
        rows.put(measure(name, options))
    except Exception as error:
        rows.put({"model": name, "note": f"{type(error).__name__}: {error}", "problems": [traceback.format_exc()]})


def known_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that were written before."""
    path = folder / "unit_discovery.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Iterable[dict[str, Any]], folder: Path, command: str) -> None:
    """Write the rows, merged with those already there, as a CSV and as a table."""
    merged = {row["model"]: row for row in known_rows(folder)}
    for row in rows:  # without a proof, what was proven before stays
        known = merged.get(row["model"], {})
        merged[row["model"]] = {column: row.get(column, known.get(column, "")) for column in COLUMNS}
    table = [merged[name] for name in models() if name in merged]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "unit_discovery.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    lines = ["# Units found and proven", "", *summary(table), "", f"Command: `{command}`", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in table]
    (folder / "unit_discovery.md").write_text("\n".join(lines) + "\n")


def summary(table: list[dict[str, Any]]) -> list[str]:
    """Return the figures over all models."""
    measured = [row for row in table if str(row["ratio"])]
    ratios = sorted(float(row["ratio"]) for row in measured)
    proven = [row["proven"].split("/") for row in measured if row["proven"]]
    slow = [f"{row['model'].partition('/')[2]} ({row['ratio']})" for row in measured if float(row["ratio"]) > 20]
    wrong = [row["model"] for row in measured if row["note"] == "WRONG"]
    return [
        f"- {len(table)} models, {len(table) - len(measured)} without a result, "
        f"{sum(int(row['groups']) == 0 for row in measured)} without a group.",
        f"- {sum(int(right) for right, _ in proven)} of {sum(int(total) for _, total in proven)} groups "
        f"proven in {len(proven)} models; wrong: {', '.join(wrong) or 'none'}; "
        f"no proof was run on the other {len(measured) - len(proven)}.",
        f"- Time of discovery: median {statistics.median(ratios or [0]):.0f} forward passes, at most 20 for "
        f"{sum(ratio <= 20 for ratio in ratios)} of {len(ratios)} models.",
        f"- Slower than 20 forward passes: {', '.join(slow) or 'none'}. Images of the smallest size take such models "
        "5 to 40 ms, while following one operation takes about 0.3 ms of Python whatever the size of the images.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="regular expression that the name of a model must contain")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON object per model")
    parser.add_argument("--write", type=Path, help="folder of the table and the CSV, into which the rows are merged")
    parser.add_argument("--no-proof", action="store_true")
    parser.add_argument("--skip-known", action="store_true", help="leave out models that already have a row in --write")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per model")
    options = parser.parse_args()
    names = [name for name in models() if re.search(options.filter, name)]
    if options.list:
        print("\n".join(names))
        return
    if options.skip_known and options.write is not None:
        known = {row["model"] for row in known_rows(options.write) if row["proven"]}
        names = [name for name in names if name not in known]
    if not options.json:
        print("  ".join(COLUMNS))
    for name in names:
        row = in_a_process_of_its_own(name, options)
        cells = (str(row.get(column, "-")) for column in COLUMNS)
        print(json.dumps(row) if options.json else "  ".join(cells), flush=True)
        if options.write is not None:
            where = f" --filter {options.filter!r}" if options.filter else ""
            write([row], options.write, f"uv run benchmarks/unit_discovery.py{where} --write benchmarks/results")


if __name__ == "__main__":
    main()
