"""The examples run, and what they compute is what they say."""

import csv
import math
import runpy
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")


def load(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_the_comparison_of_methods_fills_its_table_and_goes_on_where_it_was(tmp_path):
    settings = ["--max-steps", "8", "--samples-per-experience", "4", "--streams", "label-permuted", "--workers", "0"]
    main = load("upgd.py")["main"]
    for seeds, methods in ((["0"], ["SGD", "UPGD units"]), (["0", "1"], ["SGD", "UPGD units", "CBP"])):
        main([*settings, "--seeds", *seeds, "--methods", *methods, "--out", str(tmp_path)])
    with (tmp_path / "upgd.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = Counter((row["method"], row["seed"]) for row in rows)
    assert len(runs) == 3 * 2
    assert set(runs.values()) == {2}  # experiences
    measures = ("online_accuracy", "plasticity", "zero_activations", "weight_norm")
    assert all(math.isfinite(float(row[measure])) for row in rows for measure in measures)
    assert (tmp_path / "upgd_digits_label-permuted.png").stat().st_size > 10_000


def test_the_quality_of_utilities_fills_its_table(tmp_path):
    settings = ["--max-steps", "20", "--seeds", "1", "--activations", "relu", "--workers", "0", "--out", str(tmp_path)]
    table = load("utility_quality.py")["main"](settings)
    assert table["relu"]["second order"] > table["relu"]["magnitude"]
    assert table["relu"]["first order"] > 0.5
    assert (tmp_path / "utility_quality.png").stat().st_size > 5_000


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_truth_is_the_loss_without_each_weight(activation):
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Linear(5, 50), activation(), nn.Linear(50, 1)),
        torch.rand(5) - 0.5,
        torch.tensor(0.3),
    )
    got, expected = load("utility_quality.py")["loss_without_each_weight"](model, x, y), []
    with torch.no_grad():
        for parameter in model.parameters():
            for i in range(parameter.numel()):
                kept = parameter.view(-1)[i].clone()
                parameter.view(-1)[i] = 0
                expected.append((model(x)[0] - y).square())
                parameter.view(-1)[i] = kept
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-7)
