from itertools import pairwise

import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import SlowlyChangingRegression
from lightning_plasticity.streams.randomness import derived_generator
from lightning_plasticity.streams.regression import threshold_network


def oracle(network, bits, beta, published_offset):
    """One sample through the target network, unit by unit."""
    total = float(network.out_bias)
    for weights, bias, out in zip(network.weight.tolist(), network.bias.tolist(), network.out.tolist(), strict=True):
        miscounted = (len(bits) - sum(weights) + bias) / 2
        negative = miscounted if published_offset else sum(w < 0 for w in [*weights, bias])
        activation = sum(w * x for w, x in zip(weights, bits, strict=True)) + bias
        if activation > beta * (len(bits) + 1) - negative:
            total += out
    return total


@pytest.mark.parametrize("published_offset", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.7])
def test_the_target_is_that_of_the_paper(beta, published_offset):
    network = threshold_network(20, 100, beta, derived_generator(0), published_offset=published_offset)
    assert {float(w) for w in network.weight.unique()} == {-1.0, 1.0}
    x = torch.randint(2, (50, 20), generator=derived_generator(1)).float()
    expected = [oracle(network, bits, beta, published_offset) for bits in x.tolist()]
    assert network(x).flatten().tolist() == expected
    assert len(set(expected)) > 3


def test_the_published_offset_changes_the_target():
    fixed, published = (SlowlyChangingRegression(1, 500, published_offset=offset) for offset in (False, True))
    assert torch.equal(fixed[0].tensors[0], published[0].tensors[0])
    assert not torch.equal(fixed[0].tensors[1], published[0].tensors[1])


@pytest.mark.parametrize("flips", [1, 3])
def test_so_many_slow_bits_flip_between_experiences_and_none_within(flips):
    stream = SlowlyChangingRegression(30, 20, flips=flips, seed=2)
    slow = []
    for experience in stream:
        x = experience.tensors[0]
        assert (x[:, :15] == x[0, :15]).all()
        assert 0.2 < x[:, 15:].mean() < 0.8
        slow.append(x[0, :15])
    assert [int((a != b).sum()) for a, b in pairwise(slow)] == [flips] * 29


def test_all_slow_bits_are_redrawn_on_request():
    stream = SlowlyChangingRegression(200, 1, flips=None)
    slow = torch.stack([experience.tensors[0][0, :15] for experience in stream])
    changed = (slow[1:] != slow[:-1]).float().sum(1)
    assert 7.0 < changed.mean() < 8.0  # half of 15, within four standard errors


def test_the_seed_alone_fixes_the_stream():
    a, b, c = (SlowlyChangingRegression(5, 10, seed=seed)[4].tensors for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_more_flips_than_slow_bits_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"`flips=4`.*slow bits, 3"):
        SlowlyChangingRegression(2, slow_bits=3, flips=4)


@pytest.mark.parametrize("name", ["num_experiences", "samples_per_experience", "slow_bits", "random_bits", "flips"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(InvalidArgumentError, match=rf"{name}=0.*in \[1, inf\)"):
        SlowlyChangingRegression(**({"num_experiences": 2} | {name: 0}))
