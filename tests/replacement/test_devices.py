"""The engine allocates where the weights are, or on the host, whatever PyTorch's default device is."""

from __future__ import annotations

import pytest
import torch
from support.training_runs import same
from torch import nn

from lightning_plasticity.methods import (
    continual_backprop,
    random_replacement,
    redo,
    regrama,
    self_normalized_resets,
)
from lightning_plasticity.replacement import (
    AdaptableContribution,
    BernoulliLowestMature,
    CloneBest,
    Method,
    Random,
    UnitReplacer,
    ZeroOutgoing,
)
from lightning_plasticity.units import discover_units

METHODS = {
    "continual_backprop": continual_backprop(0.3, 1, keep_mean_output=True),
    "adaptable": continual_backprop(0.3, 1, utility=AdaptableContribution(), initializer="orthogonal"),
    "random_scores": continual_backprop(0.3, 1, utility=Random()),
    "clones": Method(Random(), BernoulliLowestMature(0.3, 1), (CloneBest(), ZeroOutgoing())),
    "random_replacement": random_replacement(0.3, 1),
    "redo": redo(0.9, 2),
    "regrama": regrama(0.9, 2),
    "self_normalized_resets": self_normalized_resets(0.3, firing_threshold=1.0, prior_weight=2.0),
}


def run(method, default):
    """Train, save and restore under a default device; return what can be compared."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.ReLU(),
        nn.Linear(6, 2),
    )
    model, x, events = nn.Sequential(*layers), torch.randn(8, 5, 1, 3, 3), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.device(default):
        units = discover_units(model, x[0])
        with UnitReplacer(method, units, optimizer, seed=0) as replacer:
            replacer.listeners.append(events.append)
            for batch in x:
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
            replacer.load_state_dict(replacer.state_dict())
        metrics, summary = replacer.metrics(), units.summary()
    assert events
    return model.state_dict(), replacer.state_dict(), events, metrics, summary


@pytest.mark.parametrize("name", METHODS)
def test_units_are_found_replaced_and_saved_alike_whatever_the_default_device_is(name):
    assert same(run(METHODS[name], "meta"), run(METHODS[name], "cpu"))  # on "meta" nothing can be computed
