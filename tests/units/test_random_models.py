"""In random networks every group is proven, and every layer without one is skipped with a reason.

``RANDOM_MODELS=2000`` sets how many are tried; the first failing one is reported as the shortest list of numbers.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.left_out import passed_over
from support.random_models import random_model
from torch import nn

from lightning_plasticity.units import UnitMap, discover_units, verify_units

WANTED = os.environ.get("RANDOM_MODELS")
PROGRAMS = st.lists(st.integers(0, 5039), min_size=4, max_size=60)


def layers_left_out(model: nn.Module, unit_map: UnitMap) -> list[str]:
    """Return the layers with weights that neither write units nor were skipped with a reason."""
    writers = {slot.path.rpartition(".")[0] for group in unit_map for slot in group.incoming}
    skipped = {skip.layer for skip in unit_map.skipped if skip.reason}
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    weighted = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    carried = {slot.path.rpartition(".")[0] for group in unit_map for slot in group.norms}
    return sorted(weighted - writers - skipped - carried)


@settings(
    max_examples=int(WANTED or 12),
    deadline=None,
    derandomize=WANTED is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(PROGRAMS)
def test_every_group_is_proven_and_every_other_layer_skipped_with_a_reason(numbers) -> None:
    torch.manual_seed(0)
    model, inputs = random_model(numbers)
    unit_map = discover_units(model, inputs, residual="group")
    proofs = verify_units(model, inputs, unit_map)
    assert not proofs.failed, proofs.summary()
    assert layers_left_out(model, unit_map) == []
    assert passed_over(model, unit_map) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_models_are_not_trivial(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    model, inputs = random_model(torch.randint(5040, (40,), generator=generator).tolist())
    assert sum(1 for _ in model.parameters()) >= 4
    assert all(output.isfinite().all() for output in model(*inputs))
