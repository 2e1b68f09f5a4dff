"""Every layer that is left alone has a reason, and, where there is one, a remedy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo import make

from lightning_plasticity.units import discover_units


def said(name: str, layer: str) -> tuple[str, str]:
    """Return the reason and the remedy for a layer of a model of the zoo."""
    (skip,) = (skip for skip in discover_units(*make(name)).skipped if skip.layer == layer)
    return skip.reason, skip.remedy


CASES = [
    ("mlp", "4", "it reaches the output of the model", ""),
    ("residual", "stem.0", "residual stream", "residual='group'"),
    ("lstm", "cell", "it is recurrent (LSTM): its units feed themselves, which no law covers", "Leave it alone"),
    ("gru", "cell", "it is recurrent (GRU)", "Leave it alone"),
    ("recurrent_cells", "layer.0", "it is recurrent (GRUCell)", "Leave it alone"),
    ("recurrent_cells", "layer.1", "it is recurrent (LSTMCell)", "Leave it alone"),
    ("recurrence_by_hand", "step", "it is recurrent", ""),
    ("tied_embedding", "embed", "its weight is used in two orientations (tied weights)", "a weight of its own"),
    ("autoencoder_with_tied_weights", "encoder", "tied weights", "a weight of its own"),
    ("frozen_part", "0", "its weight is frozen (requires_grad=False)", "Set requires_grad=True"),
    ("leaves_torch", "2", "its values leave torch", "Keep the computation in PyTorch"),
    ("branch_on_the_data", "narrow", "met no activation on the example", "Pass an example that uses it"),
    ("branch_on_the_data", "wide", "branches on its data, and narrow, which did not run", "examples of all kinds"),
]


@pytest.mark.parametrize(("name", "layer", "reason", "remedy"), CASES)
def test_the_reason_says_what_is_wrong_and_the_remedy_what_would_help(name, layer, reason, remedy):
    why, help_ = said(name, layer)
    assert reason in why
    assert remedy in help_
    assert bool(remedy) == bool(help_)


def test_a_part_of_a_layer_is_counted():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = nn.Linear(4, 6), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden, out = self.both(x).split([4, 2], dim=-1)
            return self.head(hidden), out

    units = discover_units(Model(), torch.randn(3, 4))
    assert units["both"].size == 4
    assert "2 of 6 units: it reaches the output of the model" in {skip.reason for skip in units.skipped}
