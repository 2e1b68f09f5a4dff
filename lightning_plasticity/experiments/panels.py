"""Figures of experiments on streams: one panel per measure, one curve per method, a band for the spread over seeds.

Letters: ``S`` seeds, ``B`` bins of experiences.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError

# told apart by the colour-blind, after Okabe and Ito
COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")


@dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Args:
        column: Column of the rows.
        label: Label of the vertical axis, with its unit.
        factor: The column is multiplied by it; 100 for percentages.
        baseline: A method whose values, seed by seed, are subtracted; without rows of it nothing is shown. None shows
            the values themselves.
        marks: Published values to compare with: ``(bin's experience, value)`` by label.
    """

    column: str
    label: str
    factor: float = 1.0
    baseline: str | None = None
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def seed_curves(rows: Sequence[Mapping[str, str]], column: str, bin_width: int = 1) -> dict[str, Tensor]:
    """Return a column's means in bins of experiences, by method.

    Args:
        rows: Rows with the columns ``method``, ``seed``, ``experience`` and ``column``.
        column: The measure.
        bin_width: Experiences per bin.

    Returns:
        One tensor ``[S, B]`` per method, in the order of first appearance, NaN where a bin is empty.

    Example:
        >>> rows = [{"method": "sgd", "seed": "0", "experience": str(k), "loss": str(k)} for k in range(4)]
        >>> seed_curves(rows, "loss", bin_width=2)
        {'sgd': tensor([[0.5000, 2.5000]])}
    """
    bins = 1 + max((int(row["experience"]) for row in rows), default=0) // bin_width
    curves: dict[str, Tensor] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        seeds = sorted({row["seed"] for row in rows if row["method"] == method}, key=int)
        totals, counts = torch.zeros(2, len(seeds), bins).unbind()
        for row in rows:
            if row["method"] == method:
                place = seeds.index(row["seed"]), int(row["experience"]) // bin_width
                totals[place] += float(row[column])
                counts[place] += 1
        curves[method] = totals / counts
    return curves


def mean_and_error(curves: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over seeds and its standard error, NaN left out.

    Args:
        curves: Values, ``[S, ...]``.

    Returns:
        Two tensors ``[...]``; the error is 0 where there is one seed only.
    """
    count = (~curves.isnan()).sum(0)
    mean = curves.nanmean(0)
    variance = (curves - mean).square().nansum(0) / (count - 1).clamp_min(1)
    return mean, (variance / count.clamp_min(1)).sqrt()


def draw_panels(
    rows: Sequence[Mapping[str, str]],
    path: str | Path,
    panels: Sequence[Panel],
    *,
    xlabel: str,
    title: str = "",
    bin_width: int = 1,
) -> None:
    """Draw the panels of an experiment side by side: mean over seeds, with a band of one standard error.

    Args:
        rows: Rows with the columns ``method``, ``seed``, ``experience`` and those of the panels.
        path: Where the picture goes; its suffix decides the format.
        panels: The panels, from left to right.
        xlabel: Label of the horizontal axes.
        title: Title of the figure.
        bin_width: Experiences per point of a curve.

    Raises:
        InvalidArgumentError: If there are no rows.
    """
    if not rows:
        raise InvalidArgumentError("no rows to draw", "results of at least one experience", "Run the experiment longer")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axis, panel in zip(axes, panels, strict=True):
        for method, values in _shown(rows, panel, bin_width).items():
            color = COLORS[methods.index(method) % len(COLORS)]
            mean, error = mean_and_error(panel.factor * values)
            x = (torch.arange(len(mean)) + 0.5) * bin_width + 0.5
            seeds = f"{len(values)} seed" + "s" * (len(values) != 1)
            axis.plot(x, mean, color=color, linewidth=1.5, label=f"{method} ({seeds})")
            axis.fill_between(x, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)
        if not axis.lines:
            axis.text(0.5, 0.5, f"no rows of {panel.baseline!r}", transform=axis.transAxes, ha="center")
        for marker, (label, (place, value)) in zip("x+*1234", panel.marks.items(), strict=False):
            axis.plot(place, value, marker, color="gray", label=label)
        axis.set(xlabel=xlabel, ylabel=panel.label)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
        if panel.marks:
            axis.legend(handles=axis.lines[-len(panel.marks) :], frameon=False, fontsize=8)
    figure.legend(
        handles=axes[0].lines[: len(methods)],
        loc="outside lower center",
        ncols=min(7, 2 * len(panels) - 1),
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(textwrap.fill(title, 60 * len(panels)), fontsize=10)
    figure.savefig(path, dpi=110)


def _shown(rows: Sequence[Mapping[str, str]], panel: Panel, bin_width: int) -> dict[str, Tensor]:
    """The curves of a panel: relative to its baseline over the seeds that both have, or as they are."""
    if panel.baseline is None:
        return seed_curves(rows, panel.column, bin_width)
    known = {row["seed"] for row in rows if row["method"] == panel.baseline}
    curves = {}
    for method in dict.fromkeys(row["method"] for row in rows if row["seed"] in known):
        seeds = known & {row["seed"] for row in rows if row["method"] == method}
        pair = [row for row in rows if row["seed"] in seeds and row["method"] in {method, panel.baseline}]
        values = seed_curves(pair, panel.column, bin_width)
        curves[method] = values[method] - values[panel.baseline]
    return curves
