"""Weights in single precision are computed with in double precision, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import UnitMap, discover_units, verify_units
from lightning_plasticity.units.proof import sandbox as sandboxes
from lightning_plasticity.units.proof.effects import effects
from lightning_plasticity.units.proof.precision import Promotion
from lightning_plasticity.units.proof.sandbox import sandbox


@pytest.mark.parametrize("name", ["grouped_conv", "transformer_encoder_layer", "convnet"])
def test_weights_too_large_for_double_precision_are_proven_in_as_many_runs(name, monkeypatch) -> None:
    torch.manual_seed(0)
    model, x = zoo.make(name)
    unit_map = discover_units(model, x)
    light = verify_units(model, x, unit_map)
    monkeypatch.setattr(sandboxes, "_LARGEST_DOUBLE", 0)
    heavy = verify_units(model, x, unit_map)
    assert heavy, heavy.summary()
    assert heavy.runs == light.runs


def test_a_weight_in_single_precision_has_derivatives_that_are_computed_in_double_precision(monkeypatch) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)), torch.randn(5, 3)
    found = []
    for largest in (2**27, 0):
        monkeypatch.setattr(sandboxes, "_LARGEST_DOUBLE", largest)
        with sandbox(model, x) as box:
            assert effects(box, lambda tensor, effect: found.append((tensor.dtype, effect.double())))
            (output,) = box.run()
            assert output.dtype == torch.float64
    for (_, double), (_, single) in zip(found[:4], found[4:], strict=True):
        torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-7)
    assert {stored for stored, _ in found[:4]} == {torch.float64}
    assert {stored for stored, _ in found[4:]} == {torch.float32, torch.float64}


def test_the_model_casts_to_no_less_precision_but_autograd_may() -> None:
    promotion = Promotion(torch.float64)
    with promotion:
        assert torch.zeros(2, dtype=torch.float64).float().dtype == torch.float64
        with promotion.narrowing():
            assert torch.zeros(2, dtype=torch.float64).float().dtype == torch.float32
        assert torch.zeros(2, dtype=torch.float64).half().dtype == torch.float64
        assert (torch.ones(2) + torch.ones(2, dtype=torch.float64)).dtype == torch.float64


class Spectral(nn.Module):
    """Units between two complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(shape, dtype=torch.cfloat)) for shape in ((5, 4), (2, 5)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x.to(torch.cfloat), self.first)
        return torch.view_as_real(F.linear(hidden * hidden.abs(), self.second))


def test_units_of_complex_weights_are_proven_in_double_precision() -> None:
    torch.manual_seed(0)
    model = Spectral()
    units = discover_units(model, torch.randn(8, 4))
    with sandbox(model, torch.randn(8, 4)) as box:
        assert model.first.dtype == torch.complex128
        assert [output.dtype for output in box.run()] == [torch.float64]
    (group,) = units
    assert verify_units(model, torch.randn(8, 4), units)["first"].proven
    wrong = replace(group, outgoing=(replace(group.outgoing[0], index=(torch.tensor([0, 2, 1, 3, 4])[:, None],)),))
    assert not verify_units(model, torch.randn(8, 4), UnitMap(model, (wrong,)))["first"].proven
