"""Discovery and proof read an example in one way."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.units import UnitMap, discover_units, verify_units
from lightning_plasticity.units.example import how_to_run


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x, scale=1.0):
        return self.last(self.first(x).relu() * scale)


class Encoding(UserDict):
    """A mapping that is no dict, as tokenizers return them."""


X, SCALE = torch.randn(3, 4), torch.rand(3, 1)

EXAMPLES = {
    "a tensor": lambda model: X,
    "a tuple": lambda model: (X, SCALE),
    "a dict": lambda model: {"x": X, "scale": SCALE},
    "a mapping": lambda model: Encoding(x=X, scale=SCALE),
    "a function": lambda model: lambda: model(X, scale=SCALE),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_units_are_found_and_proven_on_every_kind_of_example(kind):
    model = TwoInputs()
    example = EXAMPLES[kind](model)
    unit_map = discover_units(model, example)
    assert [group.name for group in unit_map] == ["first"]
    assert verify_units(model, example, unit_map)["first"].proven


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_model_is_run_on_the_example(kind):
    model = TwoInputs()
    run, _ = how_to_run(model, EXAMPLES[kind](model))
    assert torch.equal(run(), model(X) if kind == "a tensor" else model(X, SCALE))


def test_in_another_precision_it_is_run_on_copies_that_are_told():
    mapping = Encoding(x=X, scale=SCALE)
    run, inputs = how_to_run(TwoInputs().double(), mapping, torch.float64)
    assert [tensor.dtype for tensor in inputs] == [torch.float64] * 2
    assert run().dtype == torch.float64
    inputs[0].zero_()
    assert mapping["x"] is X
    assert X.any()


@pytest.mark.parametrize(
    ("example", "kind"),
    [
        ([[1.0, 2.0]], "of type list"),
        (3, "of type int"),
        (None, "of type NoneType"),
        (UnitMap(nn.Linear(4, 2), ()), "of type UnitMap"),
        (nn.Linear, "that is a class, Linear"),
    ],
    ids=["list", "int", "None", "map", "class"],
)
def test_what_is_no_example_is_refused_by_both(example, kind):
    model = nn.Linear(4, 2)
    message = (
        rf"`example_inputs` {kind}\. Expected: a tensor, a tuple of arguments, "
        r"a mapping of keyword arguments, or a function.*Remedy: Convert arrays with `torch.as_tensor`"
    )
    with pytest.raises(InvalidArgumentError, match=message):
        discover_units(model, example)
    with pytest.raises(InvalidArgumentError, match=message):
        verify_units(model, example, UnitMap(model, ()))


@pytest.mark.parametrize("example", [torch.zeros(0, 4), (torch.zeros(0, 4), 2.0), {"x": torch.zeros(0, 4)}], ids=str)
def test_an_empty_example_is_refused(example):
    with pytest.raises(InvalidArgumentError, match="without a sample"):
        discover_units(TwoInputs(), example)
