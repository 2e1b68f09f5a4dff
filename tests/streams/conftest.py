"""A module that remembers what it was fed, and small streams."""

from collections.abc import Callable

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Recorder(pl.LightningModule):
    """A linear classifier that writes down, per batch, the experience and the first feature of each sample."""

    def __init__(self, datamodule):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(2, 3)
        self.stream = datamodule
        self.seen: list[tuple[int, list[float]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append((self.stream.current_experience, x[:, 0].tolist()))
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class EvaluatingRecorder(Recorder):
    """Writes down what it was validated on, too: the experience, the dataloader, the first features."""

    def __init__(self, datamodule):
        super().__init__(datamodule)
        self.evaluated: list[tuple[int, int, list[float]]] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.append((self.stream.current_experience, dataloader_idx, batch[0][:, 0].tolist()))


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def evaluating_recorder() -> type[EvaluatingRecorder]:
    return EvaluatingRecorder


@pytest.fixture
def stream() -> Callable[..., list[TensorDataset]]:
    """Build experiences of the given sizes; the first feature of sample ``i`` of experience ``k`` is ``100 k + i``."""

    def build(*sizes: int) -> list[TensorDataset]:
        return [
            TensorDataset(
                torch.stack((100.0 * k + torch.arange(size), torch.ones(size)), dim=1) / 100,
                torch.arange(size) % 3,
            )
            for k, size in enumerate(sizes)
        ]

    return build


@pytest.fixture
def trainer(tmp_path) -> Callable[..., pl.Trainer]:
    def build(**arguments) -> pl.Trainer:
        quiet = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "default_root_dir": tmp_path,
            "accelerator": "cpu",
        }
        return pl.Trainer(**(quiet | arguments))

    return build
