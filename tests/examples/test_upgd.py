"""The examples run, and what they compute is what they say."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")


def load(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_the_comparison_of_methods_fills_its_table(tmp_path):
    settings = ["--max-steps", "8", "--experiences", "2", "--samples-per-experience", "5", "--workers", "0"]
    table = load("upgd.py")["main"]([*settings, "--out", str(tmp_path)])
    assert len(table) == 14
    assert all(math.isfinite(value) for row in table.values() for value in row)
    assert (tmp_path / "upgd.png").stat().st_size > 10_000


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
