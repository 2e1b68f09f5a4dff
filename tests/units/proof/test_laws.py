"""A law that fails for many groups is looked at again for fewer, until the guilty ones are found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_plasticity.units import UnitGroup
from lightning_plasticity.units.proof.laws import about, blamed, halves
from lightning_plasticity.units.proof.sandbox import sandbox

GROUPS = [(UnitGroup(str(i), 3, (), (), (), None), torch.tensor([i % 3])) for i in range(7)]


@pytest.mark.parametrize("guilty", [set(), {"0"}, {"6"}, {"2", "3"}, {str(i) for i in range(7)}], ids=str)
def test_the_guilty_are_blamed_and_nobody_else(guilty) -> None:
    def law(box, chosen):
        return about(chosen, "wrong") if guilty & {group.name for group, _ in chosen} else {}

    with sandbox(nn.Linear(2, 2), torch.ones(1, 2)) as box:
        assert blamed(law, box, GROUPS).keys() == guilty
        assert blamed(law, box, []) == {}


def test_all_are_blamed_if_each_is_right_alone() -> None:
    with sandbox(nn.Linear(2, 2), torch.ones(1, 2)) as box:
        problems = blamed(lambda box, chosen: about(chosen, "wrong") if len(chosen) > 5 else {}, box, GROUPS)
    assert problems.keys() == {group.name for group, _ in GROUPS}
    assert problems["1"] == "together with other groups: units [1]: wrong"


def test_halves_share_out_the_units_of_every_group() -> None:
    (one, _), (other, _) = GROUPS[:2]
    parts = halves([(one, torch.tensor([3, 1, 4])), (other, torch.tensor([5]))])
    assert [[(group.name, units.tolist()) for group, units in part] for part in parts] == [
        [("0", [3, 4]), ("1", [5])],
        [("0", [1])],
    ]
    assert halves([(one, torch.tensor([3])), (other, torch.tensor([5]))]) == []
