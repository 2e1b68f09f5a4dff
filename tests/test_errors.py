"""A refusal has three parts; a table among them stands on lines of its own."""

from __future__ import annotations

import copy

from lightning_plasticity.errors import StateMismatchError, UnsupportedModelError


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


def test_errors_can_be_sent_to_another_process():
    error = copy.copy(StateMismatchError("a", "b", "c"))  # by the protocol that pickles use
    assert (type(error), error.found, error.expected, error.remedy) == (StateMismatchError, "a", "b", "c")
