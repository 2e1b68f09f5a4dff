"""A rule is found by the name of the operation, else by what torch says of it."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.rules import contractions, moves, norms, pointwise, reductions
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.registry import rule, rule_of

aten = torch.ops.aten
FOUND = [
    (aten.mm.default, contractions.mm),
    (aten.cat.default, moves.cat),
    (aten.native_layer_norm.default, norms.layer_norm),
    (aten.relu.default, pointwise.pointwise),  # by torch's tag
    (aten.relu_.default, pointwise.pointwise),  # in place: by the tag of its functional variant
    (aten.erfinv.default, pointwise.pointwise),
    (aten.sum.dim_IntList, reductions.reduction),
    (aten.linalg_inv_ex.default, None),
]


@pytest.mark.parametrize(("function", "found"), FOUND)
def test_the_rule_of_an_operation(function, found):
    assert rule_of(Call(function, (), {}, None)) is found


def test_an_operation_has_one_rule():
    with pytest.raises(AssertionError, match="mm"):
        rule("mm")(contractions.mm)
