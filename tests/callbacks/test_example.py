"""Callbacks find the units of a module as its ``training_step`` uses it, however it calls its layers."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from support.training_runs import trainer
from torch import nn
from torch.nn import functional as F

from lightning_plasticity import ContinualBackprop, discover_units

BATCH = torch.randn(6, 8), torch.arange(6) % 3


class Steps(pl.LightningModule):
    """Three layers, and a way in which a training step uses them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.last = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(10, 3)
        self.body = nn.Sequential(self.first, nn.ReLU(), self.second, nn.ReLU())

    def forward(self, x):
        features = self.body(x)
        return (
            (self.last(features), features) if self.way == "a call that returns features too" else self.last(features)
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        ways = {
            "one call": lambda: self(x),
            "layer by layer": lambda: self.last(self.second(self.first(x).relu()).relu()),
            "body and head": lambda: self.last(self.body(x)),
            "forward without a call": lambda: self.forward(x),
            "a slice of the layers": lambda: self.last(self.body[2:](self.body[:2](x))),
            "a call that returns features too": lambda: self(x)[0],
        }
        return {"loss": F.cross_entropy(ways[self.way](), y)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


WAYS = ["one call", "layer by layer", "body and head", "forward without a call", "a slice of the layers"]


def found(tmp_path, way: str) -> list[tuple[str, int]]:
    ours, module = ContinualBackprop(), Steps(way)
    trainer(tmp_path, callbacks=[ours]).fit(module, torch.utils.data.DataLoader([BATCH], batch_size=None))
    return [(group.name, group.size) for group in ours.replacer.groups]


@pytest.mark.parametrize("way", WAYS)
def test_units_are_found_however_the_step_calls_its_layers(tmp_path, way):
    module = Steps(way)
    units = discover_units(module, lambda: module.training_step(BATCH, 0))
    assert [(group.name, group.size) for group in units] == [("first", 12), ("second", 10)]
    assert found(tmp_path, way) == [("first", 12), ("second", 10)]


def test_what_the_module_itself_returns_is_no_unit_though_the_loss_does_not_use_it(tmp_path):
    assert found(tmp_path, "a call that returns features too") == [("first", 12)]
