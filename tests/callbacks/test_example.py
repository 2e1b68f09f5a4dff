"""Callbacks find the units of a module as its ``training_step`` uses it, however it calls its layers."""

from __future__ import annotations

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from support.training_runs import trainer
from torch import nn
from torch.nn import functional as F

from lightning_plasticity import ContinualBackprop, PlasticityMonitor, UPGDPerturbation, discover_units
from lightning_plasticity.errors import PlasticityError, UnsupportedModelError
from lightning_plasticity.units import UnitMap

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


class Forwardless(Steps):
    """A module that is only ever run by its training step."""

    forward = pl.LightningModule.forward


class Failing(Steps):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("no such luck")


class Elsewhere(Steps):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(nn.Linear(8, 3)(batch[0]), batch[1])


def another(name):
    return (
        rf"Remedy: Pass another `{name}`: a tensor, .*runs the model; without it, `training_step` is run on the first"
    )


REFUSED = {
    "an example of another shape": (
        Steps,
        torch.zeros(2, 5),
        rf"in layer '(first|body.0)'.*{another('example_input')}",
    ),
    "an example of a wrong type": (Steps, [torch.zeros(2, 8)], r"Found: `example_input` of type list.*Remedy: Convert"),
    "a map for an example": (
        Steps,
        UnitMap(nn.Linear(8, 3), ()),
        r"Found: `example_input` of type UnitMap\. Expected: a tensor",
    ),
    "an example without a sample": (Steps, torch.zeros(0, 8), r"Found: `example_input` without a sample"),
    "a function that runs something else": (
        Steps,
        lambda: nn.Linear(8, 3)(BATCH[0]),
        r"Found: a run in which none of the 6 parameters of Steps was used.*If `example_input` is a function",
    ),
    "no forward": (Forwardless, torch.zeros(2, 8), rf'missing the required "forward".*{another("example_input")}'),
    "a step that fails": (
        Failing,
        None,
        r"Found: `training_step` on the first training batch: the model failed.*RuntimeError: no such luck.*"
        r"Remedy: Pass another `example_input`: a tensor, .*runs the model\.$",
    ),
    "a step that runs another model": (
        Elsewhere,
        None,
        r"Found: `training_step` on the first training batch: a run in which none of .* Elsewhere was used",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize(
    "callback",
    [ContinualBackprop, partial(UPGDPerturbation, per="unit"), PlasticityMonitor],
    ids=["replacement", "gate", "monitor"],
)
def test_refusals_speak_of_the_argument_of_the_callback(tmp_path, what, callback):
    module, example, message = REFUSED[what]
    loader = torch.utils.data.DataLoader([BATCH], batch_size=None)
    with pytest.raises(PlasticityError, match=message):
        trainer(tmp_path, callbacks=[callback(example_input=example)]).fit(module("one call"), loader)


def test_refusals_speak_of_the_attribute_of_the_module_if_it_is_the_example(tmp_path):
    module = Forwardless("one call")
    module.example_input_array = torch.zeros(2, 8)
    with pytest.raises(UnsupportedModelError, match=another("example_input_array")) as refusal:
        trainer(tmp_path, callbacks=[ContinualBackprop()]).fit(module, torch.utils.data.DataLoader([BATCH]))
    assert isinstance(refusal.value.__cause__, NotImplementedError)
