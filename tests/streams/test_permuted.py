import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import PermutedInputs, PermutedLabels, read_tensors
from lightning_plasticity.streams.permuted import drifting_permutation


@pytest.fixture
def images():
    return TensorDataset(torch.arange(6 * 12.0).view(6, 1, 3, 4), torch.tensor([3, 5, 3, 9, 5, 9]))


def test_every_experience_permutes_all_inputs_alike_and_differs_from_the_others(images):
    stream = PermutedInputs(images, num_experiences=50)
    seen = set()
    for dataset in stream:
        first = dataset[0][0].flatten().long()
        assert sorted(first.tolist()) == list(range(12))
        for index, (x, y) in enumerate(dataset):
            assert x.shape == (1, 3, 4)
            assert torch.equal(x.flatten().long(), first + 12 * index)
            assert y == images[index][1]
        seen.add(tuple(first.tolist()))
    assert len(seen) == 50


def test_an_experience_does_not_depend_on_which_were_built_before(images):
    forwards = [stream[k][0][0] for stream in [PermutedInputs(images, 20, seed=3)] for k in range(20)]
    backwards = [PermutedInputs(images, 20, seed=3)[k][0][0] for k in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not torch.equal(forwards[0], PermutedInputs(images, 20, seed=4)[0][0][0])


@pytest.mark.parametrize(("fraction", "most"), [(0.1, 10), (0.5, 50), (1.0, 100)])
def test_a_fraction_of_the_positions_moves_per_experience(fraction, most):
    for steps in range(5):
        before, after = (drifting_permutation(100, k, fraction, seed=0) for k in (steps, steps + 1))
        assert sorted(after.tolist()) == list(range(100))
        assert most / 2 < (before != after).sum() <= most


def test_permutations_of_everything_are_uniform():
    counts = torch.zeros(3, 3)
    for seed in range(600):
        counts[torch.arange(3), drifting_permutation(3, 2, 1.0, seed)] += 1
    assert (counts / 600 - 1 / 3).abs().max() < 0.08  # four standard deviations


def test_samples_are_drawn_anew_per_experience_without_replacement(images):
    stream = PermutedInputs(images, 30, samples_per_experience=4)
    drawn = {tuple(dataset.indices) for dataset in stream}
    assert all(len(set(indices)) == 4 for indices in drawn)
    assert len(drawn) > 20
    many = PermutedInputs(images, 1, samples_per_experience=15)[0]
    assert len(many) == 15
    assert torch.bincount(torch.tensor(many.indices)).min() == 2


def test_labels_are_permuted_among_the_classes_that_exist(images):
    stream = PermutedLabels(images, num_experiences=40)
    mappings = set()
    for dataset in stream:
        mapping = {images[index][1].item(): y for index, (_, y) in enumerate(dataset)}
        assert sorted(mapping) == sorted(mapping.values()) == [3, 5, 9]
        assert all(y == mapping[images[index][1].item()] for index, (_, y) in enumerate(dataset))
        assert torch.equal(dataset[0][0], images[0][0])
        mappings.add(tuple(sorted(mapping.items())))
    assert len(mappings) == 6


def test_a_slice_of_a_stream_is_a_stream_of_the_same_experiences(images):
    stream = PermutedInputs(images, 10)
    part = stream[4:8]
    assert len(part) == 4
    assert torch.equal(part[-1][0][0], stream[7][0][0])
    with pytest.raises(IndexError):
        stream[10]


class WithTargets(Dataset):
    targets = (4, 2)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.ones(2), self.targets[index]


class WithoutTargets(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.ones(2), (4, 2)[index]


@pytest.mark.parametrize("dataset", [WithTargets(), WithoutTargets(), Subset(WithTargets(), [0, 1])])
def test_labels_are_found_whatever_the_dataset(dataset):
    assert PermutedInputs(dataset, 2)[1].targets == [4, 2]


def test_inputs_that_are_no_tensors_are_refused(images):
    class Lists(WithTargets):
        def __getitem__(self, index):
            return [1, 2], self.targets[index]

    with pytest.raises(InvalidArgumentError, match=r"input of type list.*ToTensor"):
        PermutedInputs(Lists(), 2)[0][0]


@pytest.mark.parametrize("stream", [PermutedInputs, PermutedLabels])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experiences": 0}, r"num_experiences=0.*in \[1, inf\)"),
        ({"samples_per_experience": 0}, r"samples_per_experience=0.*in \[1, inf\)"),
        ({"fraction": 0.0}, r"fraction=0.0.*\(0, 1\]"),
        ({"fraction": 1.5}, "fraction=1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(images, stream, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        stream(images, **({"num_experiences": 3} | arguments))


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"labels of type torch.float32 and shape \(2,\)"):
        PermutedLabels(TensorDataset(torch.ones(2, 1), torch.ones(2)), 3)


@pytest.mark.parametrize("stream", [PermutedInputs, PermutedLabels])
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_what_is_read_at_once_is_what_is_read_one_by_one(stream, shape):
    dataset = TensorDataset(torch.rand(7, *shape), torch.arange(7) % 3)
    task = stream(dataset, 4, samples_per_experience=5, fraction=0.6, seed=2)[3]
    x, y = read_tensors(task)
    one_by_one_x, one_by_one_y = default_collate(list(task))
    assert torch.equal(x, one_by_one_x)
    assert torch.equal(y, one_by_one_y)
    assert y.dtype == one_by_one_y.dtype


def test_a_dataset_that_is_no_tensor_is_read_one_by_one():
    pairs = [(torch.rand(4), label) for label in (0, 1, 0)]
    task = PermutedInputs(pairs, 2, seed=1)[1]
    assert task.at_once() is None
    assert torch.equal(read_tensors(task)[0], torch.stack([x for x, _ in task]))
