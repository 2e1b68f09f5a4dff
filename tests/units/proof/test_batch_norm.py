"""Running statistics are made to fit what is seen, and derivatives can be taken by them."""

from __future__ import annotations

import torch
from torch import nn

from lightning_plasticity.units import discover_units, verify_units
from lightning_plasticity.units.proof.batch_norm import MeasuredStatistics, WrittenOutBatchNorm
from lightning_plasticity.units.proof.sandbox import sandbox


def test_statistics_are_measured_layer_by_layer_and_moved_a_little() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5)).eval()
    x = 100 * torch.randn(64, 4)
    statistics = MeasuredStatistics(torch.Generator().manual_seed(0))
    with torch.no_grad(), statistics:
        normed = model(x)
    assert model[1].running_mean.eq(0).all()  # nothing is written before
    statistics.write()
    torch.testing.assert_close(model(x), normed)
    first, second = model[0](x), model[2](model[1](model[0](x)))
    for norm, seen in ((model[1], first), (model[3], second)):
        variance = seen.var(0, correction=0).mean()
        assert ((norm.running_mean - seen.mean(0)).abs() < 0.5 * variance.sqrt()).all()
        assert not torch.allclose(norm.running_mean, seen.mean(0))
        assert (norm.running_var / variance).sub(1.25).abs().le(0.25).all()


def test_a_channel_that_hardly_varies_is_not_blown_up() -> None:
    norm = nn.BatchNorm1d(2, eps=0.0).eval()
    x = torch.stack([torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0 + 1e-6])], dim=1)
    with torch.no_grad(), MeasuredStatistics(torch.Generator()):
        spread = norm(x).std(0)
    torch.testing.assert_close(spread[1] / spread[0], torch.tensor(5e-7), rtol=0.5, atol=0.0)


def test_a_layer_that_shows_the_same_for_all_samples_keeps_its_statistics() -> None:
    norm = nn.BatchNorm1d(2).eval()
    statistics = MeasuredStatistics(torch.Generator())
    with torch.no_grad(), statistics:
        norm(torch.tensor([[3.0, 7.0]]).expand(4, 2))
    statistics.write()
    torch.testing.assert_close(norm.running_mean, torch.zeros(2))
    torch.testing.assert_close(norm.running_var, torch.ones(2))


def test_in_training_mode_nothing_is_measured() -> None:
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    x = torch.randn(4, 2)
    statistics = MeasuredStatistics(torch.Generator())
    with statistics:
        measured = norm(x)
    statistics.write()
    torch.testing.assert_close(measured, other(x))
    torch.testing.assert_close(norm.running_mean, other.running_mean)


def test_signals_do_not_vanish_in_a_deep_model_that_was_never_trained() -> None:
    torch.manual_seed(0)
    block = [(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()) for _ in range(6)]
    model = nn.Sequential(*(layer for layers in block for layer in layers), nn.Linear(6, 2))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(0.01)
    x = torch.randn(8, 6)
    proofs = verify_units(model, x, discover_units(model, x))
    assert all(proof.complete for proof in proofs)
    with sandbox(model, x) as box:
        (output,) = box.run()
    assert output.std() > 1e-3
    assert model[1].running_mean.eq(0).all()


def test_the_written_out_norm_is_the_same_and_has_derivatives_by_its_statistics() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double().eval()
    norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    expected = norm(x)
    norm.running_mean.requires_grad_()
    with WrittenOutBatchNorm():
        written = norm(x)
    torch.testing.assert_close(written, expected)
    written.sum().backward()
    torch.testing.assert_close(norm.running_mean.grad, -16 * (norm.running_var + norm.eps).rsqrt())
