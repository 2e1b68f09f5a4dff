"""That a layer has left the model of a map, or was added, is noticed; that it hangs elsewhere is not our business."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import StateMismatchError
from lightning_plasticity.units import discover_units
from lightning_plasticity.units.links import Links


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.fixture
def model():
    return Net()


@pytest.fixture
def links(model):
    return Links(discover_units(model, torch.randn(3, 4)))


BOUND_AGAIN = r"'{}'.*no longer part of the model.*`units = units\.update\(model\)`"
FOUND_AGAIN = r"{}.*Run `discover_units\(model, example_inputs\)` again"
EXCHANGES = {
    "the head": (lambda model: setattr(model, "head", nn.Linear(5, 3)), BOUND_AGAIN.format("head.weight")),
    "a layer inside": (lambda model: model.body.__setitem__(2, nn.Linear(6, 5)), BOUND_AGAIN.format("body.2.weight")),
    "a layer of another width": (
        lambda model: setattr(model, "head", nn.Linear(6, 2)),
        FOUND_AGAIN.format(r"'head.weight' has shape \[2, 6\], but the 5 units of 'body.2' were found in \[2, 5\]"),
    ),
    "all that holds a layer": (
        lambda model: setattr(model, "body", nn.Sequential(nn.Linear(4, 5))),
        FOUND_AGAIN.format(r"'body.2.weight' is gone"),
    ),
    "nothing in the place of a layer": (
        lambda model: delattr(model, "head"),
        FOUND_AGAIN.format("'head.weight' is gone"),
    ),
}


@pytest.mark.parametrize(("exchange", "message"), EXCHANGES.values(), ids=EXCHANGES)
def test_an_exchanged_layer_is_noticed_every_time_it_is_asked_for(model, links, exchange, message):
    assert links.hold()
    exchange(model)
    for _ in range(2):
        assert not links.hold()
        with pytest.raises(StateMismatchError, match=message):
            links.check()


def test_a_layer_that_is_put_back_is_there_again(model, links):
    head, model.head = model.head, nn.Linear(5, 3)
    assert not links.hold()
    model.head = head
    assert links.hold()


MOVES = {
    "into a wrapper": lambda model: setattr(model, "head", nn.Sequential(model.head)),
    "to another name": lambda model: setattr(model, "body", nn.Sequential(nn.Identity(), *model.body)),
    "nowhere, but a layer without weights is another": lambda model: model.body.__setitem__(1, nn.GELU()),
}


@pytest.mark.parametrize("where", MOVES)
def test_a_layer_may_move(model, links, where):
    MOVES[where](model)
    assert links.hold()
    model.body[-1] = nn.Linear(6, 5)  # the new way to it is known
    assert not links.hold()


def test_a_parameter_that_is_exchanged_is_told_once_and_one_that_is_computed_is_gone(model, links):
    assert links.check()
    model.head.weight = nn.Parameter(torch.zeros(2, 5))
    assert [links.check(), links.check()] == [False, True]
    nn.utils.parametrizations.weight_norm(model.head)
    assert not links.hold()


def test_groups_without_their_map_know_no_model(model):
    links = Links([*discover_units(model, torch.randn(3, 4))])
    model.head = nn.Linear(5, 3)
    assert links.hold()


def test_a_map_that_is_out_of_date_is_refused(model):
    units = discover_units(model, torch.randn(3, 4))
    model.head = nn.Linear(5, 3)
    with pytest.raises(StateMismatchError, match=r"\['head.weight'\]"):
        Links(units)


ADDED = {
    "beside a layer": (lambda model: setattr(model, "other", nn.Linear(5, 3)), ["other.weight", "other.bias"]),
    "in a container": (lambda model: model.body.append(nn.Linear(5, 5, bias=False)), ["body.3.weight"]),
}


@pytest.mark.parametrize("where", ADDED)
def test_an_added_layer_is_told_once(model, links, where):
    add, paths = ADDED[where]
    add(model)
    with pytest.warns(UserWarning, match=rf"^{re.escape(str(paths))} were added .*`discover_units`"):
        assert not links.check()
    assert links.added == paths
    assert links.check()
    assert not links.hold()
    links.accept()
    assert links.hold()


def test_an_added_layer_without_weights_reads_nothing(model, links):
    model.body.append(nn.Dropout())
    assert links.hold()


def test_a_layer_that_was_added_before_the_map_is_used_is_told(model):
    units = discover_units(model, torch.randn(3, 4))
    model.other = nn.Linear(5, 3)
    with pytest.warns(UserWarning, match=r"\['other.weight', 'other.bias'\] were added"):
        Links(units)
