from itertools import combinations

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import ClassPairs, GrowingClasses


def labelled(*labels):
    """Sample ``i`` has the input ``i``."""
    return TensorDataset(torch.arange(len(labels)), torch.tensor(labels))


@pytest.mark.parametrize("keep_seen", [True, False])
def test_growing_classes_brings_every_sample_when_its_class_appears(keep_seen):
    labels = [10, 30, 20, 10, 50, 40, 30]
    stream = GrowingClasses(labelled(*labels), 2, keep_seen=keep_seen, class_order=[30, 10, 50, 20, 40])
    assert len(stream) == 3
    for place, (new, seen) in enumerate([({30, 10}, {30, 10}), ({50, 20}, {30, 10, 50, 20}), ({40}, set(labels))]):
        expected = [i for i, y in enumerate(labels) if y in (seen if keep_seen else new)]
        assert [int(x) for x, _ in stream[place]] == expected
        assert [y for _, y in stream[place]] == [stream.class_order.index(labels[i]) for i in expected]


def test_the_class_order_is_shuffled_by_the_seed_alone():
    orders = [tuple(GrowingClasses(labelled(*range(20)), 5, seed=seed).class_order) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(20))


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 2, 3]])
def test_an_order_of_other_classes_is_refused(order):
    with pytest.raises(InvalidArgumentError, match=r"`class_order` of \d classes.*dataset's 3 classes"):
        GrowingClasses(labelled(0, 1, 2), 1, class_order=order)


@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_no_pair_comes_again_before_every_pair_has_come(size):
    count = size * (size - 1) // 2
    stream = ClassPairs(labelled(*range(0, 10 * size, 10)), 3 * count, seed=1)
    pairs = [tuple(sorted(stream.pair(place))) for place in range(3 * count)]
    for cycle in range(3):
        assert sorted(pairs[cycle * count : (cycle + 1) * count]) == list(combinations(range(0, 10 * size, 10), 2))
    if size > 3:
        assert pairs[:count] != pairs[count : 2 * count]
    for start in range(0, 3 * count, size // 2):
        classes = [c for pair in pairs[start : start + size // 2] for c in pair]
        assert len(set(classes)) == len(classes)


def test_a_repeated_order_repeats_its_pairs_as_published():
    stream = ClassPairs(labelled(*range(6)), 9, repeat_order=True)
    pairs = [stream.pair(place) for place in range(9)]
    assert pairs[:3] == pairs[3:6] == pairs[6:]
    assert sorted(c for pair in pairs[:3] for c in pair) == list(range(6))


def test_a_pair_has_the_samples_of_its_classes_under_the_labels_0_and_1():
    labels = [5, 6, 7, 5, 8, 7, 6, 8]
    stream = ClassPairs(labelled(*labels), 6)
    for place in range(6):
        first, second = stream.pair(place)
        expected = [(i, int(y == second)) for i, y in enumerate(labels) if y in (first, second)]
        assert [(int(x), y) for x, y in stream[place]] == expected


def test_one_class_makes_no_pair():
    with pytest.raises(InvalidArgumentError, match=r"classes \[4\].*two classes"):
        ClassPairs(labelled(4, 4), 1)


@pytest.mark.parametrize("stream", [ClassPairs, GrowingClasses])
def test_counts_below_one_are_refused(stream):
    with pytest.raises(InvalidArgumentError, match=r"=0.*in \[1, inf\)"):
        stream(labelled(0, 1), 0)
