"""Tables that people can read."""

from __future__ import annotations

from lightning_plasticity.units import Skipped
from lightning_plasticity.units.table import aligned, skipped_lines, together


def test_numbers_are_flush_right_and_names_flush_left():
    assert aligned([("group", "units"), ("0", "8"), ("conv", "16")]) == ["group  units", "0          8", "conv      16"]


def test_a_header_without_rows_is_a_table():
    assert aligned([("group", "units")]) == ["group  units"]


def test_few_names_are_listed_and_many_that_differ_in_numbers_become_a_pattern():
    assert together(["a1", "a2", "b"]) == ["a1", "a2", "b"]
    assert together(["a1.x2", "b", "a3.x2", "a4.x2", "a4.x2"]) == ["a*.x2 (3 layers)", "b"]


def test_names_without_letters_are_listed_since_their_pattern_would_say_nothing():
    assert together(["0", "2", "4", "6"]) == ["0", "2", "4", "6"]


def test_what_is_skipped_for_the_same_reason_shares_a_line_with_what_would_help():
    skipped = [
        Skipped("a", "it is frozen", "Thaw it"),
        Skipped("b", "why not"),
        Skipped("c", "it is frozen", "Thaw it"),
    ]
    assert skipped_lines(skipped) == ["skipped a, c: it is frozen (Thaw it)", "skipped b: why not"]


def test_long_lines_are_wrapped_and_indented():
    lines = skipped_lines([Skipped(f"layer_{'abcdefghijklmnopqrstuvwxyz'[i]}", "it is so") for i in range(20)])
    assert len(lines) == 2
    assert all(len(line) <= 120 for line in lines)
    assert lines[1].startswith("    layer_")
