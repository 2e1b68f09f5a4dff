"""What a map says to people, and what it refuses."""

import pytest
import torch
from torch import nn

from lightning_plasticity import discover_units
from lightning_plasticity.errors import InvalidArgumentError


@pytest.fixture
def units():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    return discover_units(model, torch.randn(3, 4))


def names(units):
    return [group.name for group in units]


@pytest.mark.parametrize(("include", "exclude"), [(["0"], None), ("0", None), (None, ["2"]), (None, "2"), ("?", "2")])
def test_patterns_choose_groups_alone_or_in_a_list(units, include, exclude):
    chosen = units.select(include, exclude)
    assert names(chosen) == ["0"]
    assert chosen.skipped[-1].layer == "2"


def test_a_pattern_that_matches_nothing_is_refused(units):
    with pytest.raises(InvalidArgumentError, match=r"pattern 'encoder\.\*' matches no unit group.*\['0', '2'\]"):
        units.select("encoder.*")


def test_patterns_that_leave_nothing_are_refused(units):
    with pytest.raises(InvalidArgumentError, match=r"which leave no unit group.*some of \['0', '2'\]"):
        units.select(exclude=["*"])


def test_the_summary_has_a_line_per_group_and_one_per_reason(units):
    lines = units.select(include="0").summary().splitlines()
    assert [line.split()[0] for line in lines] == ["group", "0", "skipped", "skipped"]
    assert "skipped 4: it reaches the output of the model" in lines


def test_layers_with_the_same_reason_share_a_line():
    model = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2), "hidden": nn.Linear(4, 4)})

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            h = self.parts["hidden"](x).relu()
            return self.parts["a"](h), self.parts["b"](h)

    summary = discover_units(TwoHeads(), torch.randn(3, 4)).summary()
    assert "skipped parts.a, parts.b: it reaches the output of the model" in summary


def test_the_short_form_counts(units):
    assert repr(units) == "UnitMap(2 groups, 11 units, 1 skipped)"
    assert str(units) == units.summary()
