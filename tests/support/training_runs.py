"""Small models and loops that the tests of training share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import Method, UnitReplacer
from lightning_plasticity.units import discover_units

EAGER = {"replacement_rate": 0.05, "maturity_threshold": 3}


def method(**changes: Any) -> Method:
    """Continual Backprop that acts soon and often."""
    return continual_backprop(**{**EAGER, **changes})


def mlp(seed: int = 0, width: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def convnet(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * 4, 8), nn.ReLU(), nn.Linear(8, 3)),
    )


def data(batches: int = 8, size: int = 10, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batches, size, 6, generator=generator)
    targets = torch.randint(3, (batches, size), generator=generator)
    return [*zip(inputs, targets, strict=True)]


def replacer_for(model: nn.Module, optimizer: Any, example: Tensor | None = None, **changes: Any) -> UnitReplacer:
    example = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)) if example is None else example
    return UnitReplacer(method(**changes), discover_units(model, example), optimizer, seed=7)


def backward(model: nn.Module, batch: tuple[Tensor, Tensor], share: float = 1.0) -> None:
    (nn.functional.cross_entropy(model(batch[0]), batch[1]) * share).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()


def same(left: Any, right: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


class Classifier(pl.LightningModule):
    """A LightningModule around the MLP."""

    example_input_array: Any

    def __init__(self, net: nn.Module | None = None, *, example: bool = True, optimizer: str = "Adam") -> None:
        super().__init__()
        self.net = mlp() if net is None else net
        self.optimizer = optimizer
        self.batch_size, self.lr = 10, 0.01
        if example:
            self.example_input_array = torch.zeros(2, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.optimizer)(self.parameters(), lr=self.lr)


def loader(batches: int = 8, size: int = 10, seed: int = 1) -> DataLoader[Any]:
    inputs, targets = (torch.cat(each) for each in zip(*data(batches, size, seed), strict=True))
    return DataLoader(TensorDataset(inputs, targets), batch_size=size)


def trainer(tmp_path: Any, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "logger": False,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**{**defaults, **options})
