"""Every file in ``examples/`` runs with tiny settings and leaves what it promises."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

# what each example is run with, beside ``--out``, and the files it leaves there
RUNS: dict[str, tuple[str, list[str]]] = {
    "quickstart.py": ("--max-steps 3 --seeds 1", []),
    "permuted_mnist.py": (
        "--fast --tasks 2 --samples-per-task 32 --width 8 --seeds 0 1 --method backprop continual-backprop --plot",
        ["permuted_mnist.csv", "permuted_mnist.png"],
    ),
    "slowly_changing_regression.py": (
        "--fast --tasks 2 --samples-per-task 8 --seeds 0 --method backprop linear continual-backprop --plot",
        ["slowly_changing_regression.csv", "slowly_changing_regression.png"],
    ),
    "continual_imagenet.py": (
        "--fast --tasks 2 --epochs 1 --channels 2 --seeds 0 --method backprop continual-backprop --plot",
        ["continual_imagenet.csv", "continual_imagenet.png"],
    ),
    "incremental_cifar100.py": (
        "--fast --tasks 2 --epochs 1 --channels 2 --train-images 4 --validation-images 4 --test-images 4 --plot",
        ["incremental_cifar100.csv", "incremental_cifar100.png"],
    ),
}


def command(name: str, arguments: str, out: Path) -> list[str]:
    return [sys.executable, "-W", "ignore", str(ROOT / "examples" / name), *arguments.split(), "--out", str(out)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def results(path: Path) -> list[dict[str, str]]:
    """The rows of a table, but for what depends on the way there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in {"commit", "command"}} for row in csv.DictReader(file)]


def test_every_example_is_run():
    assert set(EXAMPLES) <= set(RUNS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_to_its_end(name, tmp_path):
    arguments, files = RUNS[name]
    process = subprocess.run(command(name, arguments, tmp_path), env=environment(), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    for file in files:
        assert (tmp_path / file).stat().st_size > 0, file


def test_an_example_that_is_killed_ends_with_the_numbers_of_one_that_is_not(tmp_path):
    name, arguments = (
        "permuted_mnist.py",
        "--fast --tasks 40 --samples-per-task 160 --width 8 --seeds 0 --method backprop",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(name, arguments, whole), env=environment(), check=True, capture_output=True)
    process = subprocess.Popen(command(name, arguments, killed), env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and len(results(killed / "permuted_mnist.csv")) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 5 <= len(results(killed / "permuted_mnist.csv")) < 40
    subprocess.run(command(name, arguments, killed), env=environment(), check=True, capture_output=True)
    expected = results(whole / "permuted_mnist.csv")
    assert len(expected) == 40
    assert results(killed / "permuted_mnist.csv") == expected
