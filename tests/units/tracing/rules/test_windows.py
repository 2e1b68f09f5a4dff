"""Pooling and resampling mix positions: channels keep their labels, positions that differ are mixed."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch.nn import functional as F

WINDOWS = {
    "average": lambda x: F.avg_pool2d(x, 2),
    "maximum": lambda x: F.max_pool2d(x, 2),
    "average to a size": lambda x: F.adaptive_avg_pool2d(x, 1),
    "maximum to a size": lambda x: F.adaptive_max_pool2d(x, 3),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, size=5, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=5, mode="bicubic"),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_channels_keep_their_labels(kind):
    bench = Bench()
    x = bench.data(2, 3, 4, 4, dims=(1,))
    labels = bench.of(bench(WINDOWS[kind], x))
    assert torch.equal(labels[:, :, 0, 0], bench.of(x)[:, :, 0, 0])
    assert torch.equal(labels.amin((2, 3)), labels.amax((2, 3)))


def test_the_places_of_maxima_do_not_vanish_with_the_unit():
    bench = Bench()
    x = bench.data(2, 3, 4, 4, dims=(1,))
    values, places = bench(F.max_pool2d, x, 2, return_indices=True)
    assert not bench.labels.offset[bench.of(values)].any()
    assert bench.labels.offset[bench.of(places)].all()


@pytest.mark.parametrize("kind", WINDOWS)
def test_units_at_positions_are_mixed(kind):
    bench = Bench()
    x = bench.data(1, 1, 4, 4, dims=(2, 3))
    mixed = bench.of(bench(WINDOWS[kind], x)).unique()
    assert set(bench.labels.members(mixed).tolist()) <= set(bench.of(x).flatten().tolist())
    bench.labels.spoil_members(mixed[bench.labels.mixture[mixed]])
    assert bench.reasons(x) != {""}


def test_channels_that_are_sampled_at_places_keep_their_labels_and_the_places_are_context():
    bench = Bench()
    x, grid = bench.data(2, 3, 4, 4, dims=(1,)), bench.data(2, 5, 5, 2, dims=(3,))
    labels = bench.of(bench(F.grid_sample, x, grid, align_corners=False))
    assert torch.equal(labels, bench.of(x)[:, :, :1, :1].expand(2, 3, 5, 5))
    assert bench.reasons(x) == {""}
    assert "" not in bench.reasons(grid)


def test_positions_that_are_units_are_mixed_where_they_are_sampled():
    bench = Bench()
    x = bench.data(1, 1, 4, 4, dims=(2, 3))
    sampled = bench.of(bench(F.grid_sample, x, bench.data(1, 5, 5, 2, dims=()), align_corners=False))
    assert bench.labels.mixture[sampled].all()
