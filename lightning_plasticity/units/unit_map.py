"""The units of a model: what was found, what was skipped and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.units.group import UnitGroup


@dataclass(frozen=True)
class Skipped:
    """A layer whose units are left alone.

    Args:
        layer: Dotted name of the layer.
        reason: Why its units cannot be treated.
        remedy: What would help; empty if nothing would.
    """

    layer: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class UnitMap:
    """The unit groups of a model, from input to output, and the layers that have none.

    Args:
        model: The model the slots point into.
        groups: The groups, in the order in which the model computes them.
        skipped: The layers that were left alone, each with its reason.
    """

    model: nn.Module
    groups: tuple[UnitGroup, ...]
    skipped: tuple[Skipped, ...] = ()

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> UnitGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(f"no unit group {name!r}; there are {[group.name for group in self.groups]}")

    @property
    def coverage(self) -> float:
        """The share of the model's hidden weights that belong to some unit, in ``[0, 1]``."""
        owned = {id(slot.tensor): slot.tensor.numel() for group in self.groups for slot in group.slots}
        parameters = {id(p): p.numel() for p in self.model.parameters()}
        total = sum(parameters.values())
        return sum(n for key, n in owned.items() if key in parameters) / total if total else 0.0

    def select(self, include: Sequence[str] | str | None = None, exclude: Sequence[str] | str | None = None) -> UnitMap:
        """Return the map restricted to groups whose name matches.

        Args:
            include: Patterns with ``*`` and ``?`` as in file names, such as ``"encoder.*"``; None includes all.
            exclude: Patterns of groups to leave out; they win over ``include``. A single pattern need not be in a list.

        Returns:
            A map with the chosen groups; the others are listed in ``skipped``.

        Raises:
            InvalidArgumentError: If a pattern matches no group, or nothing is left.
        """
        include = (include,) if isinstance(include, str) else include
        exclude = (exclude,) if isinstance(exclude, str) else exclude
        for pattern in (*(include or ()), *(exclude or ())):
            if not any(fnmatchcase(group.name, pattern) for group in self.groups):
                raise InvalidArgumentError(
                    f"pattern {pattern!r} matches no unit group",
                    f"a pattern that matches one of {[group.name for group in self.groups]}",
                    "Correct the pattern in `include` or `exclude`",
                )

        def matches(name: str, patterns: Sequence[str]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        chosen = [
            group
            for group in self.groups
            if (include is None or matches(group.name, include)) and not matches(group.name, exclude or ())
        ]
        if self.groups and not chosen:
            raise InvalidArgumentError(
                f"include={include!r} and exclude={exclude!r}, which leave no unit group",
                f"patterns that leave some of {[group.name for group in self.groups]}",
                "Correct the patterns in `include` or `exclude`",
            )
        left_out = [Skipped(g.name, "left out by include / exclude") for g in self.groups if g not in chosen]
        return UnitMap(self.model, tuple(chosen), self.skipped + tuple(left_out))

    def summary(self) -> str:
        """Return a table for people: one line per group, then one per skipped layer.

        Returns:
            The table as text, without a trailing newline.
        """
        rows = [("group", "units", "written by", "read by", "")]
        for g in self.groups:
            marks = ", ".join(mark for mark, is_set in (("coupled", g.coupled), ("residual", g.residual)) if is_set)
            rows.append((g.name, str(g.size), _layers(g.incoming), _layers(g.outgoing), marks))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *skipped_lines(self.skipped)])

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        units = sum(group.size for group in self.groups)
        return f"{type(self).__name__}({len(self)} groups, {units} units, {len(self.skipped)} skipped)"


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """Return one line for people per reason, with the layers that are left alone for it."""
    layers: dict[tuple[str, str], list[str]] = {}
    for each in skipped:
        layers.setdefault((each.reason, each.remedy), []).append(each.layer)
    return [
        f"skipped {', '.join(names)}: {reason}" + (f" ({remedy})" if remedy else "")
        for (reason, remedy), names in layers.items()
    ]


def _layers(slots: Sequence[object]) -> str:
    paths = dict.fromkeys(re.sub(r"\.[^.]+$", "", slot.path) for slot in slots)  # type: ignore[attr-defined]
    return ", ".join(paths)
