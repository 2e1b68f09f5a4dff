"""Data that drifts: streams of experiences, and the datamodule that feeds one to a Trainer."""

from lightning_plasticity.streams.datamodule import StreamDataModule

__all__ = ["StreamDataModule"]
