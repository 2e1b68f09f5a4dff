"""Taps show the activation of the units, where and as it is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.units import Tap


class Layer(nn.Module):
    def forward(self, x: Tensor, *, gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return 2 * x, 3 * x


@pytest.mark.parametrize(
    ("where", "key", "seen"), [("input", 0, 1.0), ("input", "gate", 5.0), ("output", 0, 2.0), ("output", 1, 3.0)]
)
def test_inputs_keywords_and_outputs_are_watched_until_the_handle_is_removed(where, key, seen):
    layer, x = Layer(), torch.ones(2, 4)
    tap = Tap(layer, "layer", where, key, -1, torch.arange(4)[:, None])
    heard: list[Tensor] = []
    handle = tap.watch(heard.append)
    returned = layer(x, gate=5 * x)
    handle.remove()
    layer(x, gate=x)
    assert [float(tensor.mean()) for tensor in heard] == [seen]
    assert torch.equal(returned[0], 2 * x)


def test_a_single_output_is_watched_as_it_is():
    heard: list[Tensor] = []
    layer = nn.ReLU()
    Tap(layer, "layer", "output", 0, -1, torch.arange(4)[:, None]).watch(heard.append)
    out = layer(torch.ones(2, 4))
    assert heard[0] is out


@pytest.mark.parametrize(("dim", "shape"), [(-1, (24, 5)), (-2, (30, 4)), (-3, (40, 3))])
def test_every_position_of_every_example_is_a_sample(dim, shape):
    activation = torch.randn(2, 3, 4, 5)
    tap = Tap(nn.ReLU(), "", "input", 0, dim, torch.arange(shape[1])[:, None])
    samples = tap.samples(activation)
    assert samples.shape == shape
    assert torch.equal(samples[:, 0].sort().values, activation.select(dim, 0).flatten().sort().values)
