"""Which parameters are treated, and that nobody waits in silence for frozen ones."""

import warnings

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.optim.parameters import checked_parameters, choose_parameters, warn_untrained


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_parameters_are_chosen_by_name_in_the_order_of_the_model(model):
    assert list(choose_parameters(model).values()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert choose_parameters(model, "*.weight", "0.*") == {model[1].weight: "1.weight"}
    with pytest.raises(InvalidArgumentError, match=r"pattern 'weight' in `exclude` matches no parameter"):
        choose_parameters(model, exclude="weight")


def test_parameters_are_taken_from_anything_that_holds_them(model):
    assert checked_parameters(None) is None
    assert checked_parameters(model.parameters()) == list(model.parameters())
    with pytest.raises(InvalidArgumentError, match=r"parameters of type Parameter.*in a list"):
        checked_parameters(model[0].weight)


@pytest.mark.parametrize("case", ["frozen", "in no optimizer"])
def test_what_is_not_trained_at_all_is_named(model, case):
    optimizer = torch.optim.SGD(model[1].parameters() if case == "in no optimizer" else model.parameters(), lr=0.1)
    model[0].requires_grad_(case != "frozen")
    with pytest.warns(UserWarning, match=r"Ours has nothing to do .*: \['0.weight', '0.bias'\] are frozen or "):
        warn_untrained("Ours", choose_parameters(model, "0.*"), [optimizer])


def test_what_is_trained_in_part_is_not(model):
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_untrained("Ours", choose_parameters(model), [optimizer])
        warn_untrained("Ours", choose_parameters(model, "1.*"))  # by no optimizer's leave
        warn_untrained("Ours", {}, [optimizer])
