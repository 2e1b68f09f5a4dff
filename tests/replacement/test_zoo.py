"""Every utility and every method on every model of the zoo: whatever is found can be treated."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import zoo
from torch import nn

from lightning_plasticity.methods import continual_backprop, redo, regrama, self_normalized_resets
from lightning_plasticity.methods.utility_names import _UTILITIES, utility_named
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.replacement.refusals import why_not
from lightning_plasticity.units import discover_units
from lightning_plasticity.units.tensors import tensors_in

METHODS = {
    **{name: partial(continual_backprop, 0.5, 1, utility=utility_named(name, 0.9)) for name in _UTILITIES},
    "redo": partial(redo, 0.5, 2),
    "regrama": partial(regrama, 0.5, 2),
    "self_normalized_resets": partial(self_normalized_resets, 0.3, firing_threshold=1.0),
}
UNTREATED = {"leaves_torch"}  # its units get no gradient, so no optimizer steps them
STEPS = 4


def grouped(**settings) -> tuple[nn.Module, torch.Tensor]:
    """Return channels that are read by the several rows of one group each, which is no zoo model's only reader."""
    torch.manual_seed(0)
    layers = (nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 16, 3, **settings), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers), torch.randn(5, 2, 8)


MODELS = {name: partial(zoo.make, name) for name in zoo.FAST} | {
    f"read by {groups} groups": partial(grouped, groups=groups) for groups in (2, 4, 8)
}


@pytest.mark.parametrize("name", MODELS)
def test_units_of_every_model_are_replaced_by_every_method(name) -> None:
    for method, make in METHODS.items():
        model, inputs = MODELS[name]()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        units = discover_units(model, inputs, residual="group")
        groups = [group for group in units if group.tap is not None and why_not(group, (optimizer,)) is None]
        if not groups:
            break
        events = []
        with UnitReplacer(make(), groups, optimizer) as replacer:
            replacer.listeners.append(events.append)
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss(model, inputs).backward()
                optimizer.step()
        assert all(weight.isfinite().all() for weight in model.parameters())
        if method == "contribution":
            assert bool(events) is (name not in UNTREATED)


def loss(model: nn.Module, inputs) -> torch.Tensor:
    outputs = [output for output in tensors_in(zoo.run(model, inputs)) if output.requires_grad]
    return torch.stack([(output - 1).abs().square().mean().double() for output in outputs]).sum()
