"""Data that drifts: streams of experiences, and the datamodule that feeds one to a Trainer."""

from lightning_plasticity.streams.augmentation import flip_crop_rotate
from lightning_plasticity.streams.batches import read_tensors
from lightning_plasticity.streams.classes import ClassPairs, GrowingClasses
from lightning_plasticity.streams.constructors import (
    class_incremental,
    class_pairs,
    input_permuted,
    label_permuted,
    slowly_changing_regression,
)
from lightning_plasticity.streams.datamodule import StreamDataModule
from lightning_plasticity.streams.images import load_digits_images, load_images, some_of_each_class
from lightning_plasticity.streams.permuted import PermutedInputs, PermutedLabels
from lightning_plasticity.streams.regression import SlowlyChangingRegression

__all__ = [
    "ClassPairs",
    "GrowingClasses",
    "PermutedInputs",
    "PermutedLabels",
    "SlowlyChangingRegression",
    "StreamDataModule",
    "class_incremental",
    "class_pairs",
    "flip_crop_rotate",
    "input_permuted",
    "label_permuted",
    "load_digits_images",
    "load_images",
    "read_tensors",
    "slowly_changing_regression",
    "some_of_each_class",
]
