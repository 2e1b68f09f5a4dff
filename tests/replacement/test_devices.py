"""The engine allocates where the weights are, or on the host, whatever PyTorch's default device is."""

from __future__ import annotations

import pytest
import torch
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


@pytest.fixture
def elsewhere():
    """The default device is one on which nothing can be computed."""
    yield lambda: torch.set_default_device("meta")
    torch.set_default_device(None)


@pytest.mark.parametrize("name", METHODS)
def test_units_are_found_replaced_and_saved_whatever_the_default_device_is(name, elsewhere):
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
    model, x = nn.Sequential(*layers), torch.randn(8, 5, 1, 3, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    elsewhere()
    units = discover_units(model, x[0])
    with UnitReplacer(METHODS[name], units, optimizer, seed=0) as replacer:
        for batch in x:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
        replacer.load_state_dict(replacer.state_dict())
    assert sum(ages.replaced for ages in replacer.ages) > 0
    assert replacer.metrics()
    assert units.summary()
