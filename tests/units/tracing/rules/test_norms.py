"""Norms keep labels, couple units that share statistics, and let their own parameters join the units."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import nn

NORMS = {
    "batch norm": (nn.BatchNorm2d(4), (2, 4, 3, 3), 1, False, {"scale", "shift", "mean", "variance"}),
    "layer norm": (nn.LayerNorm(4), (2, 5, 4), 2, True, {"scale", "shift"}),
    "rms norm": (nn.RMSNorm(4), (2, 5, 4), 2, True, {"carried"}),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 3, 3), 1, True, {"scale", "shift"}),
    "group norm with a group per channel": (nn.GroupNorm(4, 4), (2, 4, 3, 3), 1, False, {"scale", "shift"}),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), (2, 4, 3, 3), 1, False, {"scale", "shift"}),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_keeps_the_units_and_couples_those_that_share_statistics(kind):
    norm, shape, dim, coupled, _ = NORMS[kind]
    bench = Bench(norm.eval())
    x = bench.data(*shape, dims=(dim,))
    assert torch.equal(bench.labels.find(bench.of(bench(norm, x))), bench.of(x))
    bench.labels.settle()
    assert bench.labels.coupled[bench.of(x)].all().item() is coupled


@pytest.mark.parametrize("kind", NORMS)
def test_the_entries_of_a_norm_belong_to_the_units(kind):
    norm, shape, dim, _, kinds = NORMS[kind]
    bench = Bench(norm.eval())
    x = bench.data(*shape, dims=(dim,))
    bench(norm, x)
    units = bench.of(x).movedim(dim, -1).reshape(-1, 4)[0]
    used = [source for source in bench.run.sources.all if source.elementwise]
    assert all(torch.equal(bench.labels.find(bench.run.sources.entries(source)), units) for source in used)
    assert {next(iter(source.kinds)) for source in used} == kinds or kind in {"rms norm", "instance norm"}


@pytest.mark.parametrize(("norm", "open_at_zero"), [
    (nn.LayerNorm(4, elementwise_affine=False), True), (nn.GroupNorm(2, 4, affine=False), True),
    (nn.LayerNorm(4), False), (nn.RMSNorm(4, elementwise_affine=False), False),
    (nn.GroupNorm(4, 4, affine=False), False),
])  # fmt: skip
def test_a_common_mean_is_left_where_a_unit_is_zero_unless_its_own_scale_closes_it(norm, open_at_zero):
    bench = Bench(norm)
    labels = bench.of(bench(norm, bench.data(2, 4)))
    assert bench.labels.offset[labels].all().item() is open_at_zero


def test_a_norm_over_positions_couples_nothing():
    bench = Bench()
    x = bench.data(2, 4, 5, dims=(1,))
    assert torch.equal(bench.of(bench(nn.LayerNorm(5, elementwise_affine=False), x)), bench.of(x))
    assert not bench.labels.coupled[bench.of(x)].any()
