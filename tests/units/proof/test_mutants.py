"""The proof finds every single mistake in a map that is right otherwise, though it tries all groups at once."""

from __future__ import annotations

import pytest
import torch
from support.mutants import mutants
from zoo import SPECIMENS, ZOO, make

from lightning_plasticity.units import UnitMap, discover_units, verify_units

FAST = {"mlp", "conv1d"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in ZOO if not SPECIMENS[name].slow]


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_is_found_and_the_right_groups_are_not_blamed(name) -> None:
    torch.manual_seed(0)
    model, inputs = make(name)
    unit_map = discover_units(model, inputs, residual="group")
    tried, missed = 0, []
    for group in unit_map:
        others = [other for other in unit_map if other is not group][:2]
        for mistake, wrong in mutants(group, others):
            groups = tuple(wrong if other is group else other for other in unit_map)
            failed = [proof.group for proof in verify_units(model, inputs, UnitMap(model, groups)).failed]
            missed += [(group.name, mistake)] * (group.name not in failed)
            tried += 1
    assert tried > 0 or len(unit_map) == 0
    assert missed == []
