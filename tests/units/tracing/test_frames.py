"""Units are observed where they are read: at the input of the layer, through copies, else at an output, else not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import discover_units


class Model(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.how = nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def read_by_a_layer(self, x):
    return self.last(self.first(x).relu())


def read_by_a_function(self, x):
    return F.linear(self.middle(self.first(x).relu()), self.last.weight)


def read_by_a_function_after_another(self, x):
    return F.linear(self.middle(self.first(x)).relu(), self.last.weight)


def read_as_a_copy(self, x):
    return self.last(self.first(x).relu().transpose(0, 1).contiguous())


def read_by_name(self, x):
    return self.last(input=self.first(x).relu())


def read_where_nobody_looks(self, x):
    return F.linear(F.linear(x, self.first.weight), self.last.weight)


CASES = [
    (read_by_a_layer, ("last", "input", 0)),
    (read_as_a_copy, ("last", "input", 0)),
    (read_by_name, ("last", "input", "input")),
    (read_by_a_function, ("middle", "output", 0)),
    (read_by_a_function_after_another, None),
    (read_where_nobody_looks, None),
]


@pytest.mark.parametrize(("how", "expected"), CASES)
def test_the_tap_is_where_the_activation_can_be_seen_as_it_is_read(how, expected):
    (group,) = discover_units(Model(how), torch.randn(3, 5, 4))
    tap = group.tap
    assert (None if tap is None else (tap.path, tap.where, tap.key)) == expected
    if tap is not None:
        assert tap.dim == -1
        assert tap.index.flatten().tolist() == [*range(6)]


def test_a_module_whose_function_copies_its_input_into_another_order_is_watched_at_its_input():
    attention = nn.MultiheadAttention(6, 2, batch_first=True)

    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attention, self.last = nn.Linear(4, 6), attention, nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.attention(x, x, x, need_weights=False)[0])

    units = discover_units(SelfAttention(), torch.randn(3, 5, 4))
    assert (units["first"].tap.path, units["first"].tap.key) == ("attention", 0)
    assert units["attention.out_proj"].tap.path == "last"
    assert units["attention"].tap is None  # its values never leave the function
    assert "not observed" in units.summary()


def test_a_unit_that_several_rows_write_at_several_positions_is_seen_where_it_is_read():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Unflatten(1, (2, 3)), nn.Linear(3, 2))
    (group,) = discover_units(model, torch.randn(5, 4))
    assert (group.tap.path, group.tap.where, group.tap.dim) == ("3", "input", -1)
    assert group.tap.index.tolist() == [[0], [1], [2]]
