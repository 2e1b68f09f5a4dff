"""What is found in every model of the zoo is right, and nothing that must be found is missing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from support.left_out import passed_over
from torch import nn
from zoo import SPECIMENS, ZOO, expected_groups, make

from lightning_plasticity.units import UnitMap, discover_units, verify_units

NAMES = [pytest.param(name, marks=[pytest.mark.slow] * SPECIMENS[name].slow) for name in ZOO]


@cache
def found_in(name: str) -> tuple[nn.Module, Any, UnitMap]:
    model, inputs = make(name)
    return model, inputs, discover_units(model, inputs, residual="group")


@pytest.mark.parametrize("name", NAMES)
def test_every_group_is_proven(name) -> None:
    model, inputs, unit_map = found_in(name)
    proofs = verify_units(model, inputs, unit_map)
    assert not proofs.failed, proofs.summary()


@pytest.mark.parametrize("name", NAMES)
def test_the_groups_and_their_tensors_are_those_written_down(name) -> None:
    model, _, unit_map = found_in(name)
    found = {
        group.name: (
            group.size,
            group.coupled,
            {slot.path for slot in group.incoming + group.norms},
            {slot.path for slot in group.outgoing},
        )
        for group in unit_map
        if group.name not in SPECIMENS[name].may
    }
    assert found == expected_groups(name, model)


@pytest.mark.parametrize("name", [name for name in ZOO if SPECIMENS[name].refused and not SPECIMENS[name].slow])
def test_what_is_refused_is_named_with_a_reason(name) -> None:
    _, _, unit_map = found_in(name)
    reasons: dict[str, str] = {}
    for skip in unit_map.skipped:
        reasons[skip.layer] = reasons.get(skip.layer, "") + skip.reason
    for layer, word in SPECIMENS[name].refused:
        assert layer in reasons
        assert word in reasons[layer]


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_belongs_to_units_or_its_layer_is_named_once_with_a_reason(name) -> None:
    model, _, unit_map = found_in(name)
    assert passed_over(model, unit_map) == []
    layers = [skip.layer for skip in unit_map.skipped]
    assert len(layers) == len(set(layers))
    assert not any(skip.remedy and skip.reason.endswith(")") for skip in unit_map.skipped)  # it follows in parentheses
