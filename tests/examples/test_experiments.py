"""Every file in ``examples/`` runs with tiny settings and leaves what it promises."""

import csv
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

ANY: tuple[str, list[str]] = ("--max-steps 3", [])
# what an example is run with, beside ``--out``, where that is more than ANY, and the files it leaves there
RUNS: dict[str, tuple[str, list[str]]] = {
    "quickstart.py": ("--max-steps 3 --seeds 1 --processes 1", []),
    "upgd.py": (
        "--max-steps 3 --streams input-permuted --workers 0",
        ["upgd.csv", "upgd_digits_input-permuted.png"],
    ),
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


def run_here(monkeypatch: pytest.MonkeyPatch, name: str, arguments: str, out: Path) -> None:
    """Run an example as a script in this process, which has imported already what takes longest."""
    path = str(ROOT / "examples" / name)
    monkeypatch.setattr(sys, "argv", [path, *arguments.split(), "--out", str(out)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(path, run_name="__main__")


def run_apart(name: str, arguments: str, out: Path) -> subprocess.Popen[str]:
    """Start an example in a process of its own."""
    words = [sys.executable, "-W", "ignore", str(ROOT / "examples" / name), *arguments.split(), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def results(path: Path) -> list[dict[str, str]]:
    """The rows of a table, but for what depends on the way there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in {"commit", "command"}} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_to_its_end(name, tmp_path, monkeypatch):
    arguments, files = RUNS.get(name, ANY)
    if files:
        run_here(monkeypatch, name, arguments, tmp_path)
    else:
        process = run_apart(name, arguments, tmp_path)
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
    for file in files:
        assert (tmp_path / file).stat().st_size > 0, file


@pytest.mark.parametrize(
    ("name", "missing"),
    [("permuted_mnist.py", "MNIST"), ("continual_imagenet.py", "ImageNet"), ("incremental_cifar100.py", "CIFAR-100")],
)
def test_an_example_without_its_images_says_what_stands_in_for_them(name, missing, capsys):
    read_images = runpy.run_path(str(ROOT / "examples" / name))["read_images"]
    images = read_images(Namespace(data_root=None, train_images=2, validation_images=1, test_images=1))
    assert re.fullmatch(
        rf"no --data-root: scikit-learn's digits(, enlarged,)? stand in for {missing}\n", capsys.readouterr().out
    )
    assert len(images) > 0


# settings with which a run is long enough to be killed in its middle, the length of its stream, and when to kill it
KILLED: dict[str, tuple[str, int, int]] = {
    "permuted_mnist.py": ("--fast --tasks 25 --samples-per-task 160 --width 8 --method backprop", 25, 5),
    "slowly_changing_regression.py": ("--fast --tasks 25 --samples-per-task 60 --method continual-backprop", 25, 5),
    "continual_imagenet.py": ("--fast --tasks 25 --epochs 1 --channels 2 --method continual-backprop", 25, 5),
    "incremental_cifar100.py": (
        "--fast --epochs 2 --channels 2 --train-images 30 --validation-images 4 --test-images 4"
        " --method continual-backprop",
        5,
        2,
    ),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(KILLED)[1:]]


@pytest.mark.parametrize("name", ["permuted_mnist.py", *SLOW])
def test_an_example_that_is_killed_ends_with_the_numbers_of_one_that_is_not(name, tmp_path, monkeypatch):
    arguments, length, rows = KILLED[name]
    arguments += " --seeds 0"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    table = Path(name).with_suffix(".csv")
    process = run_apart(name, arguments, killed)
    while process.poll() is None and len(results(killed / table)) < rows:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert rows <= len(results(killed / table)) < length
    for out in (killed, whole):
        run_here(monkeypatch, name, arguments, out)
    expected = results(whole / table)
    assert len(expected) == length
    assert results(killed / table) == expected


@pytest.mark.parametrize("name", list(KILLED))
def test_an_example_that_is_stopped_in_the_middle_goes_on_where_it_was(name, tmp_path, monkeypatch):
    arguments, *_ = KILLED[name]
    arguments = (
        arguments.replace("--tasks 25", "--tasks 3").replace("--train-images 30", "--train-images 8") + " --seeds 0"
    )
    arguments += " --tasks 3" if "--tasks" not in arguments else ""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    table = Path(name).with_suffix(".csv")
    run_here(monkeypatch, name, arguments, whole)
    expected = results(whole / table)
    assert len(expected) == 3
    steps = torch.load(next(whole.rglob("last.ckpt")), weights_only=True)["global_step"]
    run_here(monkeypatch, name, f"{arguments} --max-steps {steps // 2}", stopped)
    assert results(stopped / table) == expected[: len(results(stopped / table))] != expected
    run_here(monkeypatch, name, arguments, stopped)
    assert results(stopped / table) == expected
