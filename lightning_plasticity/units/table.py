"""Tables for people."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Container, Iterable, Sequence

from lightning_plasticity.units.skipped import Skipped

_WIDTH = 120
_ALIKE = 3  # from this many names that differ in their numbers only, one pattern stands for them


def aligned(rows: Sequence[Sequence[str]], numbers: Container[str] = ("units",)) -> list[str]:
    """Return one line per row with the cells below each other.

    Args:
        rows: The header, then the body; all of the same length.
        numbers: Headers of the columns that are flush right.

    Returns:
        The lines, without trailing spaces.

    Example:
        >>> aligned([("layer", "units"), ("hidden", "8"), ("conv", "64")])
        ['layer   units', 'hidden      8', 'conv       64']
    """
    columns = []
    for header, *body in zip(*rows, strict=True):
        width = max(map(len, (header, *body)))
        columns.append([cell.rjust(width) if header in numbers else cell.ljust(width) for cell in (header, *body)])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def together(names: Iterable[str]) -> list[str]:
    """Return the names without repetition; many that differ in their numbers only become one pattern with a count.

    Args:
        names: Dotted names.

    Returns:
        Names and patterns, in the order in which they come first.

    Example:
        >>> together(["stem", "layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2"])
        ['stem', 'layer*.*.conv2 (3 layers)']
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        pattern = re.sub(r"\d+", "*", name)
        says_something = re.search(r"[^\W\d_]", pattern)
        alike.setdefault(pattern if says_something else name, []).append(name)
    shown = []
    for found in alike.values():
        shown += found if len(found) < _ALIKE else [f"{_pattern(found)} ({len(found)} layers)"]
    return shown


def _pattern(names: Sequence[str]) -> str:
    """Return what names have in common that differ in numbers only, with ``*`` where they differ."""
    parts = zip(*(re.split(r"(\d+)", name) for name in names), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """Return for people, per reason, which layers are left alone, why, and what would help; long lines are wrapped."""
    layers: dict[tuple[str, str], list[str]] = {}
    for each in skipped:
        layers.setdefault((each.reason, each.remedy), []).append(each.layer)
    lines: list[str] = []
    for (reason, remedy), names in layers.items():
        text = f"skipped {', '.join(together(names))}: {reason}" + (f" ({remedy})" if remedy else "")
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return lines
