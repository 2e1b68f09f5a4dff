"""The statistics of a norm are held constant, whatever computes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove
from torch import Tensor, nn

from lightning_plasticity.units.statistics import FrozenStatistics


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class RMSNormByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LayerNormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer norm": lambda: nn.LayerNorm(6),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "rms norm": lambda: nn.RMSNorm(6),
    "rms norm by hand": RMSNormByHand,
    "layer norm by hand": LayerNormByHand,
}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_units_in_a_mixing_norm_are_independent_only_with_its_statistics_held(make) -> None:
    model = Network(make())
    assert not prove(model, group_of(model))["first"].independent
    assert prove(model, group_of(model, coupled=True))["first"].proven


def test_a_forgotten_reader_breaks_independence_of_coupled_units_too() -> None:
    model = Network(nn.LayerNorm(6))
    right = group_of(model, coupled=True)
    assert not prove(model, replace(right, outgoing=right.outgoing[1:]))["first"].independent


FUSED = {
    "layer norm": nn.LayerNorm(6),
    "layer norm without weights": nn.LayerNorm(6, elementwise_affine=False),
    "group norm": nn.GroupNorm(2, 6),
    "rms norm": nn.RMSNorm(6),
    "layer norm by hand": LayerNormByHand(),
}


@pytest.mark.parametrize("kind", FUSED)
def test_recorded_statistics_give_the_recorded_output_and_make_a_norm_linear(kind) -> None:
    norm, x, change = FUSED[kind].double(), torch.randn(3, 6).double(), torch.randn(3, 6).double()
    statistics = FrozenStatistics()
    with torch.no_grad():
        with statistics:
            first = norm(x)
        outputs = []
        for step in range(3):
            with statistics.replay():
                outputs.append(norm(x + step * change))
    assert torch.allclose(outputs[0], first, rtol=1e-12)
    assert torch.allclose(outputs[2] - outputs[1], outputs[1] - outputs[0], rtol=1e-9)
    assert not torch.allclose(norm(x + change), outputs[1], rtol=1e-3)
