"""An operation without a rule may mix everything that it reads, and says so by its name."""

from __future__ import annotations

import torch
from support.labelled import Bench
from torch import nn


def test_units_that_an_unknown_operation_reads_are_mixed_and_spoiled_when_that_is_used():
    bench = Bench()
    x = bench.data(3, 3)
    out = bench(torch.linalg.inv, x)
    mixed = bench.of(out).unique()
    assert bench.labels.members(mixed).tolist() == bench.of(x)[0].tolist()
    bench.labels.spoil_members(mixed)
    (why,) = bench.reasons(x)
    assert why == "operation 'linalg_inv_ex' has no rule, so it may mix them"


def test_a_parameter_that_it_reads_belongs_to_no_unit():
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(3, 3))
    bench = Bench(model)
    bench(torch.linalg.solve, model.weight, bench.data(3, 2))
    assert bench.run.sources.all[0].fault.startswith("is used by operation '_linalg_solve")


def test_data_without_units_stays_without():
    bench = Bench()
    assert bench.of(bench(torch.linalg.inv, bench.data(3, 3, dims=()))).unique().numel() == 1
