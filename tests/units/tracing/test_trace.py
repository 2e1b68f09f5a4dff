"""A model is run once per mode under labels, and what leaves the labels behind is noticed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.units import discover_units


class Model(nn.Module):
    def __init__(self, leave) -> None:
        super().__init__()
        self.first, self.second, self.last, self.leave = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2), leave
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        type(self).seen.append(self.training)
        hidden = self.second(self.first(x).relu())
        return self.last(hidden.relu()) + self.leave(hidden)

    seen: list[bool] = []  # noqa: RUF012 - survives that the model is put back


@pytest.mark.parametrize(
    ("leave", "word"),
    [
        (lambda h: float(h.detach().numpy().sum()), "its values leave torch"),
        (lambda h: h.tolist()[0][0], "its values leave torch"),
        (lambda h: h.sum().item(), "its values steer the program"),
        (lambda h: 1.0 if h.sum() > 0 else 2.0, "its values steer the program"),
    ],
)
def test_units_whose_values_leave_torch_are_refused_and_those_before_them_are_not(leave, word):
    units = discover_units(Model(leave), torch.randn(3, 4))
    assert [group.name for group in units] == ["first"]
    assert word in {skip.layer: skip.reason for skip in units.skipped}["second"]


def test_a_single_unit_whose_value_leaves_torch_is_left_out_alone():
    units = discover_units(Model(lambda h: h[0, 0].item()), torch.randn(3, 4))
    assert units["second"].size == 4
    assert units["second"].incoming[0].index[0].flatten().tolist() == [1, 2, 3, 4]
    assert any(skip.reason.startswith("1 of 5 units: its values steer") for skip in units.skipped)


def test_the_model_runs_in_both_modes_and_no_more_than_needed():
    Model.seen.clear()
    discover_units(Model(lambda h: 0.0), torch.randn(3, 4))
    assert Model.seen == [False, True]


def test_nothing_is_recorded_for_autograd():
    model = Model(lambda h: 0.0)
    recorded = []
    model.last.register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    discover_units(model, torch.randn(3, 4))
    assert recorded == [False, False]
