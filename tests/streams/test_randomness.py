"""What is drawn depends on what it is for, and on nothing else."""

import numpy
import pytest
import torch

from lightning_plasticity.streams.randomness import derived_generator


def drawn(*keys):
    return torch.randperm(20, generator=derived_generator(*keys))


def test_the_same_keys_draw_the_same():
    assert drawn(3, "pixels", 7).equal(drawn(3, "pixels", 7))


@pytest.mark.parametrize("other", [(4, "pixels", 7), (3, "labels", 7), (3, "pixels", 8), (3, "pixels")])
def test_any_other_key_draws_something_else(other):
    assert not drawn(3, "pixels", 7).equal(drawn(*other))


def test_a_whole_number_of_numpy_is_that_number():
    assert drawn(numpy.int64(3), "pixels", numpy.int32(7)).equal(drawn(3, "pixels", 7))
