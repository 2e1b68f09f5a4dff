"""Who branches at random may have readers that the example did not draw; who only drops layers in training has none."""

from __future__ import annotations

import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_plasticity.units import discover_units, verify_units
from lightning_plasticity.units.tracing.chance import Chance, is_loading, states_on_the_host


def one_of_python() -> float:
    return random.random()  # ruff: ignore[suspicious-non-cryptographic-random-usage] - nothing here is secret


class Heads(nn.Module):
    """A trunk and three heads, of which one is chosen."""

    def __init__(self, choose, width: int = 8) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 2), *(nn.Linear(width, 2) for _ in "ab")])
        self.register_buffer("chances", torch.ones(3))
        self.logits, self.choose = nn.Parameter(torch.zeros(3)), choose

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.trunk(x))
        drawn = self.choose(self)
        return self.heads[drawn if self.heads[1].in_features == 8 else 0](hidden)


DRAWS = {
    "randint": lambda m: int(torch.randint(3, ())),
    "an index": lambda m: torch.randperm(3)[0],
    "item": lambda m: (torch.rand(1) * 3).long().item(),
    "bool": lambda m: 1 if torch.rand(()) < 0.5 else 0,
    "tolist": lambda m: torch.randint(3, (2,)).tolist()[0],
    "numpy": lambda m: int(torch.randint(3, (2,)).numpy()[0]),
    "in place": lambda m: int(torch.empty(()).uniform_(0, 3)),
    "by chances": lambda m: int(torch.multinomial(m.chances, 1)),
    "by a parameter": lambda m: int(torch.distributions.Categorical(logits=m.logits).sample()),
    "how many": lambda m: min(2, len(torch.nonzero(torch.rand(3) < 0.5))),
    "random": lambda m: random.sample(range(3), 1)[0],
    "numpy's own": lambda m: int(np.random.randint(3)),
    "a normal of numpy": lambda m: int(np.random.randn() > 0),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_units_are_uncertain_if_chance_decides_who_reads_them(draw):
    units = discover_units(Heads(DRAWS[draw]), torch.randn(6, 4))
    assert len(units) == 0
    said = {skip.layer: (skip.reason, skip.remedy) for skip in units.skipped}
    assert "the model branches at random, and heads." in said["trunk"][0]
    assert "which did not run on the example, may use its units" in said["trunk"][0]
    assert said["trunk"][1] == "Pass a function that runs every branch, one after another"


def test_both_are_said_if_the_data_and_chance_decide():
    class Both(Heads):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() < 1e9 else self.trunk(x)

    (skip,) = (s for s in discover_units(Both(DRAWS["random"]), torch.randn(6, 4)).skipped if s.layer == "trunk")
    assert "the model branches on its data or at random, and heads." in skip.reason
    assert skip.remedy == "Pass a function that runs every branch, one after another"


@pytest.mark.parametrize("draw", DRAWS)
def test_the_remedy_helps(draw):
    model, x = Heads(DRAWS[draw]), torch.randn(6, 4)

    def every_branch() -> list[Tensor]:
        DRAWS[draw](model)  # the remedy also helps who cannot keep the model from drawing
        with patch.object(model, "choose", side_effect=[0, 1, 2]):
            return [model(x) for _ in range(3)]

    units = discover_units(model, every_branch)
    assert {slot.path for slot in units["trunk"].outgoing} == {f"heads.{i}.weight" for i in range(3)}
    assert verify_units(model, every_branch, units)["trunk"].proven


@pytest.mark.parametrize("draw", DRAWS)
def test_a_layer_too_narrow_for_the_units_makes_nothing_uncertain(draw):
    units = discover_units(Heads(DRAWS[draw], width=3), torch.randn(6, 4))
    assert [group.name for group in units] == ["trunk"]


BLIND = {
    "noise": lambda m: 0 * len(torch.rand(3)),
    "a constant": lambda m: int(torch.arange(3)[1]),
    "a generator of its own": lambda m: random.Random(0).randrange(3),  # ruff: ignore[suspicious-non-cryptographic-random-usage]
    "shuffled samples": lambda m: 0 * len(list(DataLoader(range(4), shuffle=True))),
}


@pytest.mark.parametrize("draw", BLIND)
def test_idle_layers_make_nothing_uncertain_if_chance_decides_nothing(draw):
    units = discover_units(Heads(BLIND[draw]), torch.randn(6, 4))
    assert [group.name for group in units] == ["trunk"]


class Blocks(nn.Module):
    """Residual blocks, of which training leaves some out."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.stem, self.head, self.draw = nn.Linear(4, 6), nn.Linear(6, 2), draw
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x if self.training and self.draw() < 0.5 else x + block(x)
        return self.head(x)


@pytest.mark.parametrize("draw", [one_of_python, lambda: torch.rand(()), lambda: torch.rand(1).item(), np.random.rand])
def test_layers_that_only_training_leaves_out_keep_their_units(draw):
    model, x = Blocks(draw), torch.randn(6, 4)
    units = discover_units(model, x)
    assert {group.name for group in units} == {f"blocks.{i}.0" for i in range(4)}
    assert not verify_units(model, x, units).failed


def test_what_is_computed_from_chance_is_known_by_its_memory():
    chance, drawn = Chance(), torch.rand(4)
    assert not chance.made(drawn)
    chance.add([drawn])
    assert chance.made(drawn[1:].view(3, 1))
    assert not chance.made(drawn.clone())


@pytest.mark.parametrize("draw", [one_of_python, np.random.rand, np.random.randn])
def test_the_states_on_the_host_tell_that_something_was_drawn(draw):
    before = states_on_the_host()
    assert states_on_the_host() == before
    draw()
    assert states_on_the_host() != before


def test_loading_is_noticed_from_inside():
    assert not is_loading()
    assert list(DataLoader(["sample"], collate_fn=lambda samples: is_loading())) == [True]
