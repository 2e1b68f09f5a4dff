"""Along dimensions in which labels do not vary they stay; along others they are mixed."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units, verify_units

REDUCTIONS = {
    "sum": lambda x, dim: x.sum(dim),
    "mean": lambda x, dim: x.mean(dim),
    "mean that keeps its dimension": lambda x, dim: x.mean(dim, keepdim=True).squeeze(dim),
    "maximum": lambda x, dim: x.amax(dim),
    "maximum with its place": lambda x, dim: x.max(dim).values,
    "deviation": lambda x, dim: x.std(dim),
    "log of a sum": lambda x, dim: x.logsumexp(dim),
    "norm": lambda x, dim: x.norm(dim=dim),
}
STATISTICS = {"mean that keeps its dimension", "deviation", "norm"}
ALONG = {
    "softmax": lambda x, dim: x.softmax(dim),
    "running sum": lambda x, dim: x.cumsum(dim),
    "sort": lambda x, dim: x.sort(dim).values,
    "largest": lambda x, dim: x.topk(3, dim).values,
    "spectrum": lambda x, dim: torch.fft.fft(x, dim=dim),
    "spectrum and back": lambda x, dim: torch.fft.irfft(torch.fft.rfft(x, dim=dim), n=x.shape[dim], dim=dim),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_reduction_over_positions_keeps_the_units(kind):
    bench = Bench()
    x = bench.data(4, 5, 3, dims=(2,))
    labels = bench.of(bench(REDUCTIONS[kind], x, 1))
    assert torch.equal(bench.labels.find(labels), bench.of(x)[:, 0])
    assert bench.labels.offset[labels].all().item() is (kind == "log of a sum")


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_reduction_over_units_mixes_them_and_is_a_statistic_if_a_proof_can_hold_it_still(kind):
    bench = Bench()
    x = bench.data(4, 5, 3, dims=(2,))
    mixed = bench.of(bench(REDUCTIONS[kind], x, 2)).unique()
    assert bench.labels.mixture[mixed].all()
    assert bench.labels.statistic[mixed].all().item() is (kind in STATISTICS)
    assert bench.labels.members(mixed).tolist() == bench.of(x)[0, 0].tolist()


@pytest.mark.parametrize("kind", ALONG)
def test_what_compares_units_mixes_them_and_what_compares_positions_does_not(kind):
    bench = Bench()
    x = bench.data(4, 5, 3, dims=(2,))
    over_positions = bench.of(bench(ALONG[kind], x, 1))
    assert torch.equal(bench.labels.find(over_positions[:, :3]), bench.of(x)[:, :3])
    assert bench.labels.offset[over_positions].all().item() is (kind == "softmax")
    mixed = bench.of(bench(ALONG[kind], x, 2)).unique()
    assert bench.labels.mixture[mixed].all()
    assert not bench.labels.statistic[mixed].any()


def test_a_loss_mixes_all_units():
    bench = Bench()
    x = bench.data(4, 3)
    loss = bench(lambda: F.mse_loss(x, torch.zeros(4, 3)))
    assert bench.labels.members(bench.of(loss).reshape(1)).tolist() == bench.of(x)[0].tolist()


@pytest.mark.parametrize("function", [lambda x: x.nonzero(), lambda x: x.sum().item(), lambda x: x[x > 0], bool])
def test_units_whose_values_leave_the_tensors_or_decide_a_shape_are_spoiled(function):
    bench = Bench()
    x = bench.data(1, values=torch.ones(1))
    bench(function, x)
    assert any("steer the program" in why or "index" in why for why in bench.reasons(x))


@pytest.mark.parametrize(("dim", "mixed"), [(-1, False), (0, True)])
def test_a_renorm_scales_what_lies_along_its_dimension_each_as_a_whole(dim, mixed):
    bench = Bench()
    x = bench.data(4, 3)
    kinds = bench.labels.mixture[bench.of(bench(torch.renorm, x, 2, dim, 1.0))]
    assert kinds.all().item() is mixed
    assert kinds.any().item() is mixed


class Scaled(nn.Module):
    """A hidden layer whose units act on each other through ``norm``, and a layer that reads them."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.hidden, self.head, self.norm = nn.Linear(5, 6), nn.Linear(6, 3), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(x).relu()))


NORMS = {
    "root mean square": (lambda h: h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1), True),
    "mean": (lambda h: h - h.mean(-1, keepdim=True), True),
    "length": (lambda h: h / (h.norm(dim=-1, keepdim=True) + 1), True),
    "sum": (lambda h: h + h.sum(), False),
    "sum of magnitudes": (lambda h: h / (h.abs().sum(-1, keepdim=True) + 1), False),
    "maximum": (lambda h: h - h.amax(-1, keepdim=True), False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_units_that_act_on_each_other_are_found_if_a_proof_can_hold_what_they_share(kind):
    norm, found = NORMS[kind]
    model, x = Scaled(norm), torch.randn(4, 5)
    units = discover_units(model, x)
    assert [(group.name, group.coupled) for group in units] == [("hidden", True)] * found
    assert not verify_units(model, x, units).failed if found else units.skipped[0].layer == "hidden"
