"""The state of a run: what a tensor is, what was used how, and which weights feed themselves."""

from __future__ import annotations

import torch
from support.labelled import Bench
from torch import nn
from torch.nn import functional as F

from lightning_plasticity.units.tracing.labels import FOREIGN, UNREAD


def owner() -> nn.Module:
    model = nn.Module()
    model.weight, model.mask = nn.Parameter(torch.randn(4, 4)), nn.Buffer(torch.ones(4))
    return model


def test_tensors_are_told_apart():
    model = owner()
    bench = Bench(model)
    x = bench.data(2, 4)
    computed, constant = bench(lambda: model.weight * 2), bench(lambda: model.mask * 2)
    run = bench.run
    assert [run.is_weight(t) for t in (model.weight, model.weight[1:], computed, model.mask, constant, x)] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert [run.is_data(t) for t in (model.weight, computed, model.mask, constant, x)] == [False] * 4 + [True]


def test_data_without_labels_is_foreign_and_a_constant_is_nobodys():
    model = owner()
    bench = Bench(model)
    assert bench.run.of(bench.data(2, 4, dims=())).unique().tolist() == [FOREIGN]
    assert bench.run.of(bench(lambda: model.mask * 2)) is None
    assert bench.run.of(None) is None


def test_a_column_that_was_read_before_and_is_read_again_unifies_its_readers():
    model = owner()
    bench = Bench(model)
    x, y = bench.data(2, 4), bench.data(2, 4)
    for activation in (x, y):
        bench(F.linear, activation, model.weight)
    assert torch.equal(bench.labels.find(bench.of(x)), bench.labels.find(bench.of(y)))
    assert [use.role for use in bench.run.uses.values()] == ["out", "in"]
    assert bench.run.sources.all[0].is_repeated


def test_columns_that_no_layer_has_read_are_told_from_columns_that_read_constants():
    model = owner()
    bench = Bench(model)
    x = bench.data(2, 2)
    bench(lambda: F.linear(x, model.weight[:, :2]))
    (read,) = (use.labels for use in bench.run.uses.values() if use.role == "out")
    assert read.expand(4, 4)[0].tolist() == [*bench.of(x)[0].tolist(), UNREAD, UNREAD]


def test_a_weight_that_reads_what_it_wrote_feeds_itself():
    model = owner()
    bench = Bench(model)
    bench.run.runs = 1
    once = bench(F.linear, bench.data(2, 4, dims=()), model.weight)
    assert not bench.run.sources.all[0].recurrent
    bench(F.linear, once, model.weight)
    assert bench.run.sources.all[0].recurrent


def test_a_weight_used_in_two_orientations_says_so():
    model = owner()
    bench = Bench(model)
    for weight in (model.weight, model.weight.t()):
        bench(F.linear, bench.data(2, 4), weight)
    assert bench.run.sources.all[0].problem == "is tied: its rows are columns in another place"


def test_what_a_rule_may_remember_of_a_tensor_changes_with_its_labels():
    bench = Bench()
    x, y = bench.data(2, 3), bench.data(2, 3)
    assert bench.run.look(x).identity == bench.run.look(x).identity
    assert bench.run.look(x).identity != bench.run.look(y).identity
    assert bench.run.look(torch.ones(2, dtype=torch.long)).identity is None
