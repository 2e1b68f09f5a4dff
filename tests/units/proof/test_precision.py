"""Weights in single precision are computed with in double precision, forward and backward."""

from __future__ import annotations

import pytest
import torch
import zoo

from lightning_plasticity.units import discover_units, verify_units
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
