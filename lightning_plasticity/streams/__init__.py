"""Data that drifts: streams of experiences, and the datamodule that feeds one to a Trainer."""

from lightning_plasticity.streams.constructors import input_permuted, label_permuted
from lightning_plasticity.streams.datamodule import StreamDataModule
from lightning_plasticity.streams.permuted import PermutedInputs, PermutedLabels

__all__ = ["PermutedInputs", "PermutedLabels", "StreamDataModule", "input_permuted", "label_permuted"]
