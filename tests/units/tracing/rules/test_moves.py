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


def test_patches_have_the_labels_of_their_pixels():
    bench = Bench()
    x = bench.data(1, 3, 4, 4, dims=(1,))
    assert torch.equal(bench.of(bench(F.unfold, x, 2)), F.unfold(bench.of(x).double(), 2).long())


@pytest.mark.parametrize("function", [
    lambda x, out: torch.tril(x, out=out), lambda x, out: torch.index_select(x, 1, INDEX, out=out),
])  # fmt: skip
def test_labels_move_into_a_given_tensor(function):
    bench = Bench()
    x, out = bench.data(2, 3), torch.empty(2, 3)
    bench(function, x, out)
    assert torch.equal(bench.of(out), function(bench.of(x), torch.empty(2, 3, dtype=torch.long)))


@pytest.mark.parametrize("value", [0.0, 4.0, float("-inf")])
def test_a_number_that_is_written_over_units_belongs_to_nobody(value):
    bench = Bench()
    x = bench.data(2, 3)
    out = bench(lambda: x.scatter(1, torch.zeros(2, 1, dtype=torch.long), value))
    assert torch.equal(bench.of(out), bench.of(x) * torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(("value", "stays"), [(0.0, True), (4.0, False)])
def test_a_number_written_where_the_example_says_stays_unless_it_is_zero(value, stays):
    bench = Bench()
    x, where = bench.data(2, 3), bench.data(2, 1, dims=(), values=torch.zeros(2, 1, dtype=torch.long))
    labels = bench.of(bench(torch.scatter, x, 1, where, value))
    assert torch.equal(labels, bench.of(x)) is stays
    assert bool(bench.labels.mixture[labels].all()) is not stays


def test_constants_chosen_by_the_example_are_foreign():
    bench = Bench()
    where = bench.data(2, 3, dims=(), values=torch.zeros(2, 3, dtype=torch.long))
    table = bench(torch.ones, 2, 3)
    assert (bench.of(bench(torch.gather, table, 1, where)) == 1).all()
    assert (bench.of(bench(torch.scatter, bench(torch.zeros, 2, 3), 1, where, 4.0)) == 1).all()


@pytest.mark.parametrize(("made", "open_at_zero"), [(torch.zeros, False), (torch.ones, True)])
def test_a_constant_to_which_units_are_added_at_positions_is_left(made, open_at_zero):
    bench = Bench()
    x = bench.data(3, 3)
    labels = bench.of(bench(torch.index_add, bench(made, 4, 3), 0, INDEX, x))
    assert bench.labels.offset[labels].all().item() is open_at_zero


@pytest.mark.parametrize(("value", "open_at_zero"), [(0.0, False), (1.0, True)])
def test_padding_with_a_number_leaves_it_where_a_unit_is_zero(value, open_at_zero):
    bench = Bench()
    x = bench.data(2, 4, 3, dims=(1,))
    labels = bench.of(bench(F.pad, x, (1, 1), value=value))
    assert bench.labels.offset[labels].all().item() is open_at_zero


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
