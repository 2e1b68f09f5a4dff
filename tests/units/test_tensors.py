"""Tensors are found in the usual containers; weights in generic position hide nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_plasticity.units.tensors import tensors_in, to_generic_position


@dataclass
class Output:
    loss: torch.Tensor
    rest: object = None


def test_tensors_in_containers_are_found_in_order_and_other_objects_are_no_output():
    a, b, c, d = torch.arange(4.0).unbind()
    found = tensors_in({"x": [a, (b, None)], "y": Output(c, "text"), "z": object(), "class": Output, "end": d})
    assert [tensor.item() for tensor in found] == [0, 1, 2, 3]


def test_weights_are_moved_slightly_and_zeros_are_drawn():
    generator = torch.Generator().manual_seed(0)
    ones, zeros = torch.ones(50, 50), torch.zeros(50, 50)
    for weight in (ones, zeros):
        to_generic_position(weight, generator)
    assert 0.05 < (ones - 1).std() < 0.2
    assert (zeros != 0).all()
    assert 0.5 < zeros.norm(dim=1).mean() < 2
    to_generic_position(torch.zeros(0), generator)
