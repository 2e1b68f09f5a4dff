"""One way to choose names by patterns, whatever the names stand for, and one wording of what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_plasticity import callbacks
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods import redo
from lightning_plasticity.units.patterns import as_patterns, check_patterns, chosen_names, matches

NAMES = ["net.0.weight", "net.0.bias", "head.weight"]


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        (None, None, NAMES),
        ("*.weight", None, ["net.0.weight", "head.weight"]),
        (["head.*", "net.?.bias"], None, ["net.0.bias", "head.weight"]),
        (None, "*.bias", ["net.0.weight", "head.weight"]),
        ("net.*", ("*.bias",), ["net.0.weight"]),
    ],
)
def test_names_are_chosen_in_their_order_and_exclude_wins(include, exclude, chosen):
    assert chosen_names(NAMES, include, exclude, "parameter") == chosen


def test_of_no_names_none_are_chosen():
    assert chosen_names([], None, None, "parameter") == []


def test_a_single_pattern_is_a_list_of_one_and_none_is_none():
    assert as_patterns("include", "a*") == as_patterns("include", ["a*"]) == ("a*",)
    assert as_patterns("include", None) is None


@pytest.mark.parametrize("value", [[], (), 3, [3], ["a", None], {"a": 1}, nn.Linear(1, 1)])
def test_what_is_no_pattern_is_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"include=.*one or several patterns.*leave `include` out"):
        as_patterns("include", value)


@pytest.mark.parametrize(("include", "exclude", "argument"), [("net", None, "include"), (None, ["a", "*"], "exclude")])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(include, exclude, argument):
    message = rf"pattern '(net|a)' in `{argument}` matches no parameter.*'net.0.bias'.*Correct the pattern"
    with pytest.raises(InvalidArgumentError, match=message):
        chosen_names(NAMES, include, exclude, "parameter")


def test_nothing_may_be_excluded_by_an_empty_list_but_not_included():
    assert chosen_names(NAMES, None, [], "parameter") == NAMES
    with pytest.raises(InvalidArgumentError, match=r"include=\[\].*one or several patterns"):
        chosen_names(NAMES, [], None, "parameter")


def test_patterns_that_leave_nothing_are_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"include='net.\*' and exclude='\*', which leave no module.*Correct"
    ):
        chosen_names(NAMES, "net.*", "*", "module")


def test_a_pattern_must_match_from_beginning_to_end_and_in_case():
    assert matches("net.0", ["net.*"])
    assert not matches("net.0", ["et.*", "NET.*", "net"])
    check_patterns("layers", ["head.*", "net.0.*"], NAMES, "module")


CALLBACKS = {
    "UPGDPerturbation": callbacks.UPGDPerturbation,
    "L2Regularization": lambda **patterns: callbacks.L2Regularization(0.1, **patterns),
    "ShrinkAndPerturb": callbacks.ShrinkAndPerturb,
    "PlasticityMonitor": callbacks.PlasticityMonitor,
    "ContinualBackprop": callbacks.ContinualBackprop,
    "UnitReplacement": lambda **patterns: callbacks.UnitReplacement(redo(), **patterns),
}


@pytest.mark.parametrize("argument", ["include", "exclude"])
@pytest.mark.parametrize("build", CALLBACKS.values(), ids=CALLBACKS)
def test_every_callback_refuses_what_is_no_pattern_when_it_is_built(build, argument):
    assert getattr(build(**{argument: "0"}), argument) == ("0",)
    with pytest.raises(InvalidArgumentError, match=f"{argument}=tensor.*one or several patterns"):
        build(**{argument: torch.ones(2)})
