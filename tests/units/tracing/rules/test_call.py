"""A call knows its operation by name, its arguments by name, and which tensors it returns or changes."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.rules.call import Call, operands_in, signature

aten = torch.ops.aten
X = torch.ones(2)


@pytest.mark.parametrize(
    ("function", "name", "is_view", "written"),
    [
        (aten.add.Tensor, "add", False, ()),
        (aten.add_.Tensor, "add", False, ((0, "self"),)),
        (aten.add.out, "add", False, ((3, "out"),)),
        (aten.transpose.int, "transpose", True, ()),
        (aten.transpose_.default, "transpose", False, ((0, "self"),)),
        (aten._softmax.default, "_softmax", False, ()),
    ],
)
def test_the_schema_tells_name_and_manner(function, name, is_view, written):
    found = signature(function)
    assert (found.name, found.is_view, found.written) == (name, is_view, written)


def test_arguments_are_found_by_name_with_their_defaults():
    call = Call(aten.softplus.default, (X,), {"threshold": 3}, X)
    assert call["self"] is X
    assert (call["beta"], call["threshold"]) == (1, 3)


def test_results_are_what_is_returned_and_what_is_changed_each_once():
    y = torch.zeros(2)
    changed = Call(aten.add_.Tensor, (y, X), {}, y)
    assert [t is y for t in changed.outs] == [True]
    assert [t is y for t in changed.written] == [True]
    given = Call(aten.add.out, (X, X), {"out": y}, y)
    assert [t is y for t in given.outs] == [True]
    assert Call(aten.add.Tensor, (X, X), {}, y).written == []


def test_tensors_are_found_in_lists_of_arguments():
    assert [t is X for t in operands_in((1, X, [X, None, X], "a"))] == [True] * 3


def test_what_torch_writes_as_other_operations_is_composite():
    assert signature(torch.ops.aten.linear.default).is_composite
    assert not signature(torch.ops.aten.addmm.default).is_composite
