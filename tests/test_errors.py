"""A refusal has three parts; a table among them stands on lines of its own. What is no number is refused as one."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    check_choice,
    check_counts,
    check_entries,
    check_flags,
    check_mapping,
    check_module,
    check_number,
    check_optimizer,
    check_seed,
)


def test_a_sentence_is_followed_by_the_next_one():
    error = UnsupportedModelError("'net.0' is a GRU.", "units without memory", "Exclude it.")
    assert str(error) == "Found: 'net.0' is a GRU. Expected: units without memory. Remedy: Exclude it."


def test_a_table_is_followed_by_a_new_line():
    error = UnsupportedModelError("no hidden units in Net:\n0 groups\nskipped 0: it is frozen", "one", "Thaw it")
    assert str(error).splitlines() == [
        "Found: no hidden units in Net:",
        "0 groups",
        "skipped 0: it is frozen",
        "Expected: one. Remedy: Thaw it.",
    ]


def test_a_question_ends_a_message_without_a_stop():
    assert str(UnsupportedModelError("a", "b", "Did you mean 'c'?")).endswith("Remedy: Did you mean 'c'?")


def test_errors_can_be_sent_to_another_process():
    error = copy.copy(StateMismatchError("a", "b", "c"))  # by the protocol that pickles use
    assert (type(error), error.found, error.expected, error.remedy) == (StateMismatchError, "a", "b", "c")


NUMBERS = [("[0, 1)", 0), ("[0, 1)", 0.999), ("(0, 1]", 1), ("(0, inf)", 1e300), ("[-inf, inf]", -math.inf)]


@pytest.mark.parametrize(("interval", "value"), NUMBERS)
def test_a_number_within_its_interval_passes(interval, value):
    check_number("rate", value, interval)
    check_number("rate", Fraction(value) if math.isfinite(value) else value, interval)


NO_NUMBERS = [
    ("[0, 1)", 1), ("[0, 1)", -1e-9), ("(0, 1]", 0), ("[0, inf)", math.inf), ("[-inf, inf]", math.nan),
    ("[0, 1]", True), ("[0, 1]", "half"), ("[0, 1]", None), ("[0, 1]", [0.5]), ("[0, 1]", 1j),
    ("[0, 1]", torch.tensor(0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("interval", "value"), NO_NUMBERS)
def test_what_is_outside_of_its_interval_or_no_number_is_refused(interval, value):
    with pytest.raises(InvalidArgumentError) as refusal:
        check_number("rate", value, interval, meaning="a share")
    parts = f"rate={value!r}", f"a number in {interval}: a share", "Correct `rate`"
    assert (refusal.value.found, refusal.value.expected, refusal.value.remedy) == parts


SPELLED = [
    ("1e-3", "0.001", r"write 0\.001 or 1\.0e-3, where 1e-3 is a text"),
    ("1e-5", "1e-05", r"write 1\.0e-5, where 1e-5 is a text"),
    ("1E3", "1000", r"write 1000 or 1\.0e\+3, where 1E3 is a text"),
    ("0.5", "0.5", "without quotes"),
]


@pytest.mark.parametrize(("text", "number", "in_yaml"), SPELLED)
def test_a_text_that_says_a_number_is_refused_with_how_to_write_the_number(text, number, in_yaml):
    with pytest.raises(
        InvalidArgumentError, match=rf"rate='{text}'.*a number in.*Pass .*, `rate={number}`; .*{in_yaml}"
    ):
        check_number("rate", text, "[0, 1]", remedy="Pass a small number")


@pytest.mark.parametrize("text", ["", "small", "nan", "inf", "1e", "e3"])
def test_a_text_that_says_no_number_is_refused_as_any_other_value(text):
    with pytest.raises(InvalidArgumentError, match=rf"rate='{text}'.*Pass a small number"):
        check_number("rate", text, "[0, 1]", remedy="Pass a small number")


@pytest.mark.parametrize("value", [1.0, "one", True, None, 0])
def test_a_whole_number_is_an_integer(value):
    with pytest.raises(InvalidArgumentError, match=r"steps=.*a whole number in \[1, inf\).*Pass 1"):
        check_number("steps", value, "[1, inf)", whole=True, remedy="Pass 1")
    check_number("steps", 1, "[1, inf)", whole=True)


def test_a_count_is_at_least_one_or_none():
    check_counts(steps=1, batches=None)
    for count in (0, 1.0, "one", True):
        with pytest.raises(InvalidArgumentError, match=r"batches=.*a whole number in \[1, inf\).*Correct `batches`"):
            check_counts(steps=1, batches=count)


def test_a_seed_is_a_whole_number_or_none():
    check_seed(None)
    check_seed(0)
    for seed in (-1, 0.5, "zero", True):
        with pytest.raises(InvalidArgumentError, match=r"seed=.*whole number in \[0, inf\).*None for PyTorch's own"):
            check_seed(seed)


@pytest.mark.parametrize("value", ["no", 1, 0, None, torch.tensor(True)])
def test_a_flag_is_true_or_false(value):
    check_flags(foreach=True, capturable=False)
    with pytest.raises(InvalidArgumentError, match=r"capturable=.*True or False.*Correct `capturable`"):
        check_flags(foreach=True, capturable=value)


@pytest.mark.parametrize("value", ["c", None, ["a"], {}])
def test_a_choice_is_one_of_those_named(value):
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(InvalidArgumentError, match=r"kind=.*'a' or 'b'.*Correct `kind`"):
        check_choice("kind", value, ("a", "b"))


@pytest.mark.parametrize("value", [None, "sgd", torch.optim.SGD])
def test_an_optimizer_is_an_object_of_its_class(value):
    with pytest.raises(InvalidArgumentError, match=r"of type (NoneType|str|type).*torch.optim.Optimizer.*SGD"):
        check_optimizer(value)
    check_optimizer(torch.optim.SGD([torch.zeros(1)], lr=0.1))


@pytest.mark.parametrize("value", [None, torch.nn.Linear, [torch.nn.Linear(1, 1)]])
def test_a_model_is_an_object_of_its_class(value):
    with pytest.raises(InvalidArgumentError, match=r"model of type (NoneType|type|list).*an nn.Module.*Pass the model"):
        check_module(value)
    check_module(torch.nn.Linear(1, 1))


def test_a_saved_state_has_its_entries():
    check_entries({"noise": 0, "initial": [], 3: 4}, "noise", "initial")
    for state in (None, "noise", ["noise"]):
        with pytest.raises(StateMismatchError, match=r"a state of type.*entries \['noise'\].*`state_dict\(\)`"):
            check_entries(state, "noise")
    with pytest.raises(StateMismatchError, match=r"a saved state with the entries \['a', 1\].*\['noise'\].*drop it"):
        check_entries({"a": 0, 1: 2}, "noise", remedy="drop it")
    many = {f"layer.{i}": i for i in range(1000)}  # the state of a model, say
    with pytest.raises(StateMismatchError, match=r"'layer\.10', \.\.\., 'layer\.999'\] \(1000 in all\)\. Expected"):
        check_entries(many, "noise")


@pytest.mark.parametrize("value", [["net.0"], "net.0", 3])
def test_what_differs_by_layer_is_a_mapping_or_none(value):
    check_mapping("overrides", {}, "methods")
    check_mapping("overrides", None, "methods")
    with pytest.raises(InvalidArgumentError, match=r"overrides=.*methods by pattern.*Pass a dictionary such as"):
        check_mapping("overrides", value, "methods")
