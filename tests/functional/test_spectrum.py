"""Singular values and factors against a decomposition in double precision."""

import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.spectrum import (
    as_samples,
    compress,
    rounding_noise,
    rounding_unit,
    shrink,
    singular_values,
)


def features(samples, size, decay, seed=0):
    """Return features with singular values from 1 to ``decay``, evenly spaced on a logarithmic scale."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(samples, size)
    left = torch.linalg.qr(torch.randn(samples, rank, dtype=torch.float64, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64, generator=generator)).Q
    return left * torch.logspace(0, torch.tensor(decay).log10().item(), rank, dtype=torch.float64) @ right.mT


@pytest.mark.parametrize("decay", [1.0, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("samples", "size"), [(1, 5), (5, 1), (30, 80), (300, 40), (560, 530)])
def test_singular_values_are_those_of_a_decomposition(samples, size, decay):
    x = features(samples, size, decay)
    assert torch.allclose(singular_values(x), torch.linalg.svdvals(x), rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("decay", [1.0, 1e-8])
def test_a_compressed_factor_has_the_same_singular_values(decay, scale):
    x = features(300, 40, decay) * scale
    small = compress(x)
    assert small.shape == (40, 40)
    assert torch.allclose(singular_values(small) / scale, torch.linalg.svdvals(x) / scale, rtol=1e-7, atol=1e-14)


def test_a_factor_that_is_small_enough_is_left_alone():
    x = features(10, 40, 1.0)
    assert compress(x) is x


def test_compressing_and_stacking_commute():
    x, y = features(90, 20, 1e-6, seed=1), features(50, 20, 1.0, seed=2)
    stacked = torch.cat([compress(x), compress(y)])
    assert torch.allclose(singular_values(stacked), torch.linalg.svdvals(torch.cat([x, y])), rtol=1e-10, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(bad):
    x = features(30, 5, 1.0)
    x[3, 2] = bad
    assert singular_values(x).isnan().all()
    assert compress(x).isnan().any()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_has_no_singular_values(shape):
    assert singular_values(torch.zeros(shape)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4096, 64), (200, 200), (30, 400)])
def test_rounding_noise_bounds_the_rounding_errors_of_a_matrix_and_not_by_much(dtype, shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.linalg.svdvals(x.to(dtype).double() - x)[0]
    bound = rounding_noise(x.norm(), *shape, torch.finfo(dtype).eps)
    assert noise < bound < 5 * noise


def test_positions_become_samples_or_their_mean():
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(as_samples(maps)[:4].T, maps[0].reshape(3, 4))
    assert torch.equal(as_samples(maps, "mean"), maps.mean((2, 3)))


def test_a_vector_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"shape \[5\].*\[N, D\].*features\[None\]"):
        as_samples(torch.zeros(5))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"features of type list.*a tensor.*torch.as_tensor"):
        as_samples([[1.0, 2.0]])


def test_an_unknown_treatment_of_positions_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"positions='max'.*'samples' or 'mean'"):
        as_samples(torch.zeros(5, 2), "max")


def test_a_sketch_keeps_its_promise():
    x = features(400, 60, 1e-2)
    sketch, delta, lost = shrink(x, 15)
    difference = torch.linalg.eigvalsh(x.mT @ x - sketch.mT @ sketch)
    tail = torch.linalg.svdvals(x).square()
    assert sketch.shape == (15, 60)
    assert difference[0] > -1e-12
    assert difference[-1] <= delta * (1 + 1e-9) <= min(tail[k:].sum() / (16 - k) for k in range(15)) * (1 + 1e-9)
    assert torch.allclose(lost, x.norm() ** 2 - sketch.norm() ** 2)


def test_a_sketch_of_few_directions_loses_nothing():
    x = features(100, 5, 0.1) @ features(5, 60, 1.0)
    sketch, delta, _ = shrink(x, 10)
    assert delta < 1e-14
    assert torch.allclose(sketch.mT @ sketch, x.mT @ x, atol=1e-12)


def test_rounding_noise_is_zero_for_exact_numbers():
    assert not rounding_unit(torch.int64)
    assert rounding_noise(torch.tensor(3.0), 0, 4, 0.1) == 0
