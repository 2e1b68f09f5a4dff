"""Labelled images from a folder, in whichever of the usual layouts they lie, as tensors.

Letters: ``N`` images, ``C`` channels, ``H`` and ``W`` height and width.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_plasticity.errors import InvalidArgumentError, check_flags

_Split = Literal["train", "test"]
_Arrays = tuple[Any, Any]  # images [N, H, W] or [N, H, W, C] and labels [N], of numpy
_IDX_PREFIX: dict[_Split, str] = {"train": "train", "test": "t10k"}
_CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_TORCHVISION = {"mnist": "MNIST", "fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"}


def load_images(name: str, root: str | Path, *, split: _Split = "train", download: bool = False) -> TensorDataset:
    """Read a labelled image set into memory.

    These layouts are understood, in this order:

    - sheets: ``root/name/train_*.webp`` (or ``.png``), each a grid of square images read left to right, then top to
      bottom, and ``root/name/labels.npz`` with ``y_train`` and ``y_test``;
    - arrays: ``root/name/name.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``;
    - torchvision's MNIST and Fashion-MNIST: ``root/name/raw/train-images-idx3-ubyte``, packed as ``.gz`` or not;
    - torchvision's CIFAR: ``root/cifar-100-python``;
    - folders: ``root/name/train/class/*.png`` of equal size, with ``test`` or ``val`` beside ``train``.

    Args:
        name: Name of the image set, such as ``"MNIST"`` or ``"cifar100"``.
        root: Folder that holds it.
        split: ``"train"`` or ``"test"``.
        download: Whether torchvision may fetch MNIST, FashionMNIST, CIFAR10 or CIFAR100 into ``root`` first.

    Returns:
        Images ``[N, C, H, W]`` of type uint8 and labels ``[N]`` of type int64.

    Raises:
        InvalidArgumentError: If no layout is found.
    """
    check_flags(download=download)
    folder = Path(root)
    if download:
        _download(name, folder, split)
    for read in (_read_sheets, _read_arrays, _read_idx, _read_cifar, _read_folders):
        arrays = read(folder, name, split)
        if arrays is not None:
            return _as_dataset(*arrays)
    raise InvalidArgumentError(
        f"no {split} images of {name!r} below {str(root)!r}",
        f"{name}/{split}_*.webp with labels.npz, {name}/{name}.npz, {name}/raw/*-ubyte[.gz], cifar-*-python, or "
        f"{name}/{split}/<class>/<image>",
        "Pass the folder that holds them, or `download=True`",
    )


def load_digits_images(*, split: _Split = "train", enlarge: int = 1, channels: int = 1) -> TensorDataset:
    """Return scikit-learn's handwritten digits, which come with the package: real images without a download.

    Args:
        split: ``"train"`` or ``"test"``; every fifth image is a test image.
        enlarge: Every pixel becomes a square of this side.
        channels: Equal channels, for networks that expect colours.

    Returns:
        Images ``[N, channels, 8 enlarge, 8 enlarge]`` of type uint8 and labels ``[N]`` of type int64; 1438 to train
        and 359 to test.

    Example:
        >>> [tuple(load_digits_images(split=split).tensors[0].shape) for split in ("train", "test")]
        [(1438, 1, 8, 8), (359, 1, 8, 8)]
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    chosen = (torch.arange(len(images)) % 5 == 4) == (split == "test")
    images = images[chosen].repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3).expand(-1, channels, -1, -1)
    return TensorDataset(images.contiguous(), torch.from_numpy(digits.target).long()[chosen])


def some_of_each_class(images: TensorDataset, start: int, end: int) -> TensorDataset:
    """Return a part of every class, counted in the order of the dataset: for validation images, or for a smaller set.

    Args:
        images: Inputs and labels.
        start: The first sample of each class that is taken.
        end: The first that is not.

    Returns:
        Inputs and labels, in the order of the dataset.

    Example:
        >>> letters = TensorDataset(torch.arange(5), torch.tensor([0, 1, 0, 0, 1]))
        >>> some_of_each_class(letters, 1, 3).tensors
        (tensor([2, 3, 4]), tensor([0, 0, 1]))
    """
    labels = images.tensors[1]
    chosen = torch.cat([torch.nonzero(labels == label).flatten()[start:end] for label in torch.unique(labels)])
    return TensorDataset(*(tensor[chosen.sort().values] for tensor in images.tensors))


def _as_dataset(images: Any, labels: Any) -> TensorDataset:
    x: Tensor = torch.from_numpy(images.copy())
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return TensorDataset(x.contiguous(), torch.from_numpy(labels.copy()).long())


def _read_sheets(root: Path, name: str, split: _Split) -> _Arrays | None:
    folder = root / name
    paths = sorted([*folder.glob(f"{split}_*.webp"), *folder.glob(f"{split}_*.png")])
    if not paths or not (folder / "labels.npz").exists():
        return None
    import numpy as np

    labels = np.load(folder / "labels.npz")[f"y_{split}"]
    sheets = [_read_image(path) for path in paths]
    area = sum(sheet.shape[0] * sheet.shape[1] for sheet in sheets)
    side = math.isqrt(area // len(labels))
    if side * side * len(labels) != area:
        raise InvalidArgumentError(
            f"{len(labels)} labels for {area} pixels in {folder}", "square images, one per label", "Check labels.npz"
        )
    tiles = [
        sheet.reshape(sheet.shape[0] // side, side, sheet.shape[1] // side, side, 3).swapaxes(1, 2) for sheet in sheets
    ]
    return np.concatenate([tile.reshape(-1, side, side, 3) for tile in tiles]), labels


def _read_arrays(root: Path, name: str, split: _Split) -> _Arrays | None:
    path = root / name / f"{name}.npz"
    if not path.exists():
        return None
    import numpy as np

    arrays = np.load(path)
    return arrays[f"x_{split}"], arrays[f"y_{split}"]


def _read_idx(root: Path, name: str, split: _Split) -> _Arrays | None:
    import numpy as np

    arrays = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = root / name / "raw" / f"{_IDX_PREFIX[split]}-{kind}-ubyte"
        packed = path.with_name(path.name + ".gz")
        if path.exists():
            content = path.read_bytes()
        elif packed.exists():
            content = gzip.decompress(packed.read_bytes())
        else:
            return None
        shape = np.frombuffer(content, ">u4", count=header // 4 - 1, offset=4)
        arrays.append(np.frombuffer(content, np.uint8, offset=header).reshape(shape))
    return arrays[0], arrays[1]


def _read_cifar(root: Path, name: str, split: _Split) -> _Arrays | None:
    folder = _CIFAR_FOLDERS.get(name.lower())
    if folder is None or not (root / folder).exists():
        return None
    import numpy as np
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, _TORCHVISION[name.lower()])(root, train=split == "train")
    return dataset.data, np.asarray(dataset.targets)


def _read_folders(root: Path, name: str, split: _Split) -> _Arrays | None:
    splits = (split, "val") if split == "test" else (split,)
    folder = next((root / name / one for one in splits if (root / name / one).is_dir()), None)
    if folder is None:
        return None
    import numpy as np

    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(p, k) for k, c in enumerate(classes) for p in sorted(c.rglob("*")) if p.suffix.lower() in _IMAGE_FILES]
    if not files:
        return None
    images = [_read_image(path) for path, _ in files]
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        raise InvalidArgumentError(
            f"images of {len(shapes)} sizes in {folder}, such as {sorted(shapes)[:2]}",
            "images of one size",
            "Resize them first",
        )
    return np.stack(images), np.asarray([k for _, k in files])


def _read_image(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _download(name: str, root: Path, split: _Split) -> None:
    import torchvision.datasets

    if name.lower() not in _TORCHVISION:
        raise InvalidArgumentError(
            f"`download=True` for {name!r}", f"one of {sorted(_TORCHVISION.values())}", "Fetch the images yourself"
        )
    getattr(torchvision.datasets, _TORCHVISION[name.lower()])(root, train=split == "train", download=True)
