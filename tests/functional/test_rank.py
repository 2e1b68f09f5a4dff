"""Measures of rank against the formulas, applied to a singular value decomposition in double precision."""

import math

import pytest
import torch
from torch import linalg
from torchmetrics import MetricCollection

from lightning_plasticity import functional, metrics
from lightning_plasticity.errors import InvalidArgumentError


def spectrum_of(samples, size, decay, dtype=torch.float64):
    """Return features whose singular values go from 1 to ``decay``, evenly on a logarithmic scale."""
    generator = torch.Generator().manual_seed(samples + size)
    rank = min(samples, size)
    left = linalg.qr(torch.randn(samples, rank, dtype=torch.float64, generator=generator)).Q
    right = linalg.qr(torch.randn(size, rank, dtype=torch.float64, generator=generator)).Q
    sigma = torch.logspace(0, torch.tensor(decay).log10().item(), rank, dtype=torch.float64)
    return (left * sigma @ right.mT).to(dtype)


def truth(x):
    """Return all measures, written down term by term."""
    sigma = sorted(linalg.svdvals(x.double()).tolist(), reverse=True)
    total = sum(sigma)
    shares = [s / total for s in sigma if s > 0]
    smooth = [s / total + 1e-7 for s in sigma]
    return {
        functional.effective_rank: math.exp(-sum(p * math.log(p) for p in shares)),
        functional.rank_me: math.exp(-sum(p * math.log(p) for p in smooth)),
        functional.stable_rank: sum(s**2 for s in sigma) / sigma[0] ** 2,
        functional.participation_ratio: sum(s**2 for s in sigma) ** 2 / sum(s**4 for s in sigma),
        functional.approximate_rank: fewest(sigma, 2),
        functional.numerical_rank: sum(s > x.shape[1] * torch.finfo(x.dtype).eps * sigma[0] for s in sigma),
        functional.feature_rank: sum(s / len(x) ** 0.5 > 0.01 for s in sigma),
    }


def fewest(sigma, power, threshold=0.99):
    held, total = 0.0, sum(s**power for s in sigma)
    for k, s in enumerate(sigma, start=1):
        held += s**power
        if held >= threshold * total:
            return k
    raise AssertionError


@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize(("samples", "size"), [(1, 40), (40, 1), (20, 90), (90, 90), (400, 60), (20_000, 30)])
def test_ranks_agree_with_a_decomposition_to_nine_digits(samples, size, decay):
    x = spectrum_of(samples, size, decay)
    for measure, expected in truth(x).items():
        assert float(measure(x)) == pytest.approx(expected, rel=1e-9), measure.__name__


# the class of every function
CLASSES = {f: "".join(part.capitalize() for part in f.__name__.split("_")) for f in truth(torch.eye(2))}


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1.0, 1e-4, 1e-8])
@pytest.mark.parametrize(("samples", "size"), [(1, 2048), (500, 2048), (2048, 2048), (20_000, 2048)])
def test_ranks_of_large_streams_agree_with_a_decomposition_to_nine_digits(samples, size, decay):
    x = spectrum_of(samples, size, decay)
    collection = MetricCollection([vars(metrics)[name]() for name in CLASSES.values()])
    for batch in x.split(1000):
        collection.update(batch)
    found, right = collection.compute(), truth(x)
    assert float(functional.effective_rank(x)) == pytest.approx(right[functional.effective_rank], rel=1e-9)
    for measure, expected in right.items():
        assert float(found[CLASSES[measure]]) == pytest.approx(expected, rel=1e-9), measure.__name__


def test_approximate_rank_with_power_one_is_the_rank_of_the_nature_paper():
    x = spectrum_of(200, 50, 1e-3)
    assert functional.approximate_rank(x, power=1) == fewest(linalg.svdvals(x).tolist(), 1)
    assert functional.approximate_rank(x, 0.5, power=1) == fewest(linalg.svdvals(x).tolist(), 1, 0.5)


def test_a_tie_does_not_depend_on_rounding():
    assert functional.approximate_rank(0.1 * torch.eye(100)) == 99


def test_flat_spectra_have_the_rank_of_their_dimension():
    for measure in (functional.effective_rank, functional.stable_rank, functional.participation_ratio):
        assert measure(torch.eye(7)) == pytest.approx(7, rel=1e-12)


@pytest.mark.parametrize("measure", list(truth(torch.eye(2))), ids=lambda f: f.__name__)
def test_scale_does_not_matter_except_to_the_feature_rank(measure):
    x = spectrum_of(50, 20, 1e-2)
    for scale in (1e-100, 1e100):
        same = measure(x * scale) == pytest.approx(measure(x).item(), rel=1e-9)
        assert same != (measure is functional.feature_rank)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_half_precision_does_not_raise_the_rank(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 10, generator=generator) @ torch.randn(10, 200, generator=generator)
    assert functional.approximate_rank(x, power=1) == 10
    assert functional.approximate_rank(x.to(dtype), power=1) == 10
    assert functional.numerical_rank(x.to(dtype)) == 10
    assert functional.effective_rank(x.to(dtype)) == pytest.approx(functional.effective_rank(x).item(), rel=1e-4)
    assert functional.numerical_rank(x.to(dtype), noise_floor=0.0) > 100  # the noise is there, and was removed


def test_a_noise_floor_removes_smaller_directions():
    x = torch.diag(torch.tensor([1.0, 0.5, 0.01]))
    assert functional.effective_rank(x, noise_floor=0.1) == functional.effective_rank(x[:2, :2])


def test_centering_removes_the_mean():
    x = spectrum_of(100, 8, 0.1)
    moved = x + 1e6
    expected = functional.effective_rank(x - x.mean(0))
    assert functional.effective_rank(moved, centered=True) == pytest.approx(expected.item(), rel=1e-6)
    assert functional.effective_rank(moved) < 1.01


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}])
def test_a_threshold_that_is_no_share_is_refused(options):
    with pytest.raises(InvalidArgumentError, match=r"threshold=.*\(0, 1\].*`threshold`"):
        functional.approximate_rank(torch.eye(2), **options)


def test_another_power_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"power=3.*1 or 2.*Nature"):
        functional.approximate_rank(torch.eye(2), power=3)
