import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import load_digits_images, load_images


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


LABELS = np.array([2, 0, 1, 1, 2, 0])


def check(dataset, images, labels=LABELS):
    x, y = dataset.tensors
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64
    expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    assert np.array_equal(x.numpy(), expected)
    assert y.tolist() == labels.tolist()


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_sheets_are_cut_in_reading_order(tmp_path, colour, suffix):
    folder = tmp_path / "tiny"
    folder.mkdir()
    np.savez(folder / "labels.npz", y_train=LABELS, y_test=LABELS[:2])
    for number, part in enumerate((colour[:4], colour[4:])):  # grids of 2 x 2 and of 1 x 2
        rows = [np.concatenate(list(part[i : i + 2]), axis=1) for i in range(0, len(part), 2)]
        Image.fromarray(np.concatenate(rows)).save(folder / f"train_{number}.{suffix}", lossless=True)
    check(load_images("tiny", tmp_path), colour)


def test_sheets_that_do_not_fit_their_labels_are_refused(tmp_path, colour):
    (tmp_path / "tiny").mkdir()
    np.savez(tmp_path / "tiny" / "labels.npz", y_train=LABELS[:5])
    Image.fromarray(np.concatenate(list(colour), axis=1)).save(tmp_path / "tiny" / "train_0.png")
    with pytest.raises(InvalidArgumentError, match=r"5 labels for 96 pixels.*one per label"):
        load_images("tiny", tmp_path)


def test_arrays_are_read(tmp_path, grey):
    (tmp_path / "letters").mkdir()
    np.savez(tmp_path / "letters" / "letters.npz", x_test=grey, y_test=LABELS)
    check(load_images("letters", tmp_path, split="test"), grey)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_the_original_files_of_mnist_are_read_packed_or_not(tmp_path, grey, packed, split, prefix):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, magic, array in (("images-idx3", 2051, grey), ("labels-idx1", 2049, LABELS.astype(np.uint8))):
        content = np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()
        if packed:
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{prefix}-{name}-ubyte").write_bytes(content)
    check(load_images("MNIST", tmp_path, split=split), grey)


@pytest.mark.parametrize(("split", "directory"), [("train", "train"), ("test", "test"), ("test", "val")])
def test_folders_are_classes_in_alphabetical_order(tmp_path, colour, split, directory):
    for number, (image, label) in enumerate(zip(colour, LABELS, strict=True)):
        folder = tmp_path / "birds" / directory / "abc"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    order = np.argsort(LABELS, kind="stable")
    check(load_images("birds", tmp_path, split=split), colour[order], LABELS[order])


def test_images_of_different_sizes_are_refused(tmp_path, colour):
    folder = tmp_path / "birds" / "train" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(colour[0]).save(folder / "0.png")
    Image.fromarray(colour[1][:2]).save(folder / "1.png")
    with pytest.raises(InvalidArgumentError, match=r"images of 2 sizes.*Resize"):
        load_images("birds", tmp_path)


def test_the_pickles_of_cifar_are_left_to_torchvision(tmp_path, colour, monkeypatch):
    class CIFAR100:
        def __init__(self, root, train):
            self.data, self.targets = (colour, LABELS.tolist()) if train else (colour[:1], [1])

    (tmp_path / "cifar-100-python").mkdir()
    monkeypatch.setattr("torchvision.datasets.CIFAR100", CIFAR100)
    check(load_images("cifar100", tmp_path), colour)


def test_a_folder_without_images_is_refused_with_the_layouts(tmp_path):
    (tmp_path / "MNIST" / "train").mkdir(parents=True)
    with pytest.raises(InvalidArgumentError, match=r"no train images of 'MNIST' below .*labels\.npz.*<class>"):
        load_images("MNIST", tmp_path)


def test_only_what_torchvision_has_can_be_downloaded(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"`download=True` for 'birds'.*CIFAR100"):
        load_images("birds", tmp_path, download=True)


def test_digits_are_split_without_overlap():
    train, test = (load_digits_images(split=split).tensors for split in ("train", "test"))
    assert len(train[0]) + len(test[0]) == 1797
    assert train[0].max() == 255
    assert set(train[1].tolist()) == set(test[1].tolist()) == set(range(10))


def test_digits_can_be_enlarged_and_given_channels():
    small, large = (load_digits_images(**size).tensors[0] for size in ({}, {"enlarge": 4, "channels": 3}))
    assert large.shape == (1438, 3, 32, 32)
    assert torch.equal(large[:, 2, 3::4, ::4], small[:, 0])
