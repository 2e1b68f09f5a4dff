"""The one place that writes."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import write


def test_values_are_assigned_so_that_nan_and_infinity_go_away():
    weight = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]])
    write(weight, (slice(None), torch.tensor([0])), 0.0)
    assert weight.tolist() == [[0.0, 1.0], [0.0, 2.0]]


def test_values_are_cast_to_the_dtype_of_the_tensor():
    weight = torch.zeros(2, dtype=torch.bfloat16)
    write(weight, (torch.tensor([1]),), torch.ones(1, dtype=torch.float64))
    assert weight.tolist() == [0.0, 1.0]
    assert weight.dtype is torch.bfloat16


def test_parameters_are_written_outside_of_autograd_and_keep_their_identity():
    weight = torch.nn.Parameter(torch.zeros(3))
    write(weight, (torch.tensor([1]),), 1.0)
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight.tolist() == [0.0, 1.0, 0.0]


def test_sharded_tensors_are_refused():
    class Sharded(torch.Tensor):
        placements = ()

    with pytest.raises(UnsupportedModelError, match=r"sharded parameter \(DTensor\).*Remedy: Use strategy='ddp'"):
        write(torch.zeros(2).as_subclass(Sharded), (torch.tensor([0]),), 1.0)
