"""Labels stand beside numbers, whatever view of the memory is read or written."""

from __future__ import annotations

import pytest
import torch

from lightning_plasticity.units.tracing.shadow import Shadow, compact, regroup, restrict


@pytest.fixture
def labelled():
    shadow, x = Shadow(), torch.zeros(2, 6, 4)
    shadow.put(x, torch.arange(10, 16).reshape(1, 6, 1))
    return shadow, x


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x[:, 2:4],
        lambda x: x[:, ::2],
        lambda x: x.flatten(1),
        lambda x: x.reshape(2, 3, 2, 4).permute(2, 0, 3, 1),
        lambda x: x[1, :, 0],
        lambda x: x.unsqueeze(0).expand(3, 2, 6, 4),
    ],
)
def test_every_view_has_the_labels_that_the_same_view_of_the_full_labels_has(labelled, view):
    shadow, x = labelled
    full = torch.arange(10, 16).reshape(1, 6, 1).expand(2, 6, 4).contiguous()
    found = shadow.labels(view(x))
    assert torch.equal(found.expand(view(x).shape), view(full))
    assert found.shape == compact(view(full)).shape


def test_a_write_into_a_view_is_seen_through_the_whole(labelled):
    shadow, x = labelled
    shadow.put(x[:, 1], torch.full((1, 1), 99))
    assert shadow.labels(x).flatten().tolist() == [10, 99, 12, 13, 14, 15]


def test_memory_that_was_never_seen_has_no_labels(labelled):
    shadow, _ = labelled
    assert shadow.labels(torch.zeros(3)) is None


def test_memory_that_is_read_as_another_type_is_reported():
    reported = []
    shadow, x = Shadow(reported.append), torch.zeros(4)
    shadow.put(x, torch.tensor([5, 6, 7, 8]))
    assert shadow.labels(x.view(torch.int8)) is None
    assert reported[0].tolist() == [5, 6, 7, 8]


def test_equal_labels_are_one_tensor_so_that_they_are_compared_by_identity():
    shadow, x, y = Shadow(), torch.zeros(2, 4), torch.zeros(2, 4)
    shadow.put(x, torch.tensor([[5, 6, 7, 8]]))
    shadow.put(y, torch.tensor([[5, 6, 7, 8]]))
    assert shadow.labels(x) is shadow.labels(y)
    assert shadow.labels(x[:, 1:]) is shadow.labels(y[:, 1:])


def test_freed_memory_is_forgotten():
    shadow, x = Shadow(), torch.zeros(4)
    shadow.put(x, torch.tensor([5, 6, 7, 8]))
    del x
    shadow.sweep()
    assert not shadow._stores


def test_labels_are_cut_where_they_do_not_vary():
    assert compact(torch.tensor([[1, 1], [2, 2]])).tolist() == [[1], [2]]
    assert restrict(torch.tensor([[1], [2]]).expand(2, 5)).shape == (2, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [((2, 6, 4), (2, 24)), ((2, 6, 4), (12, 4)), ((2, 6, 4), (2, 3, 2, 4)), ((2, 6, 4), (2, 6, 1, 4)), ((6,), (2, 3))],
)
def test_labels_of_a_reshaped_tensor_are_the_reshaped_labels(old, new):
    labels = torch.arange(6).reshape([6 if n == 6 else 1 for n in old])
    assert torch.equal(regroup(labels, old, new).expand(new), labels.expand(old).reshape(new))
