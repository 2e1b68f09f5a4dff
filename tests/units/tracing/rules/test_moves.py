"""Operations that only move numbers move labels in the same way."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch.nn import functional as F

INDEX = torch.tensor([2, 0, 1])
MOVES = {
    "roll": lambda x: x.roll(1, -1),
    "flip": lambda x: x.flip(-1),
    "choose": lambda x: x.index_select(-1, INDEX),
    "index": lambda x: x[:, INDEX],
    "gather": lambda x: x.gather(1, INDEX.expand(2, 3)),
    "repeat": lambda x: x.repeat(2, 2),
    "repeat each": lambda x: x.repeat_interleave(2, dim=1),
    "concatenate": lambda x: torch.cat([x, x.flip(-1)], dim=1),
    "stack": lambda x: torch.stack([x, x.flip(-1)], dim=1),
    "pad with zeros": lambda x: F.pad(x, (1, 2)),
    "lower triangle": lambda x: x.tril(),
    "reshape a copy": lambda x: x.t().reshape(6),
    "write into a slice": lambda x: torch.zeros(2, 3).slice_scatter(x[:, :2], 1, 0, 2),
    "transpose in place": lambda x: x.clone().transpose_(0, 1),
    "put behind each other": lambda x: torch.cat([x, torch.zeros_like(x)], dim=0),
}


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("dims", [(-1,), (0, 1)])
def test_labels_move_with_the_numbers(kind, dims):
    bench = Bench()
    x = bench.data(2, 3, dims=dims)
    labels = bench.of(x)
    assert torch.equal(bench.of(bench(MOVES[kind], x)), MOVES[kind](labels))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_with_features_repeats_their_labels(mode):
    bench = Bench()
    x = bench.data(2, 4, 3, dims=(1, 2))
    wide = F.pad(bench.of(x).double(), (1, 1), mode=mode).long()
    assert torch.equal(bench.of(bench(F.pad, x, (1, 1), mode=mode)), wide)


def test_pixels_are_shuffled_with_their_labels():
    bench = Bench()
    x = bench.data(1, 8, 2, 2, dims=(1,))
    assert torch.equal(bench.of(bench(F.pixel_shuffle, x, 2)), F.pixel_shuffle(bench.of(x), 2))


def test_units_that_are_used_as_an_index_are_spoiled():
    bench = Bench()
    x = bench.data(3, values=torch.tensor([0, 2, 1]))
    bench(torch.index_select, torch.randn(3), 0, x)
    assert bench.reasons(x) == {"it is used as an index"}


def test_adding_at_chosen_positions_sums_labels_that_do_not_vary_there():
    bench = Bench()
    x, y = bench.data(4, 3), bench.data(3, 3)
    out = bench(torch.index_add, x, 0, INDEX, y)
    assert torch.equal(bench.labels.find(bench.of(out)), bench.labels.find(bench.of(x)))
    assert torch.equal(bench.labels.find(bench.of(x)[0]), bench.labels.find(bench.of(y)[0]))


def test_split_copies_have_the_labels_of_their_part():
    bench = Bench()
    x = bench.data(2, 4)
    for part, labels in zip(bench(torch.split_copy, x, 2, 1), bench.of(x).split(2, 1), strict=True):
        assert torch.equal(bench.of(part), labels)
