"""Figures of plasticity, drawn from the logs of a run: CSV files or TensorBoard's event files.

Matplotlib and TensorBoard's reader are imported when a figure is drawn. Letters: ``R`` runs, ``T`` points in time,
``L`` layers, ``K`` singular values.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_plasticity.callbacks.monitoring.writing import AGGREGATES
from lightning_plasticity.errors import InvalidArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Log = dict[str, tuple[list[int], list[float]]]
"""Steps and values by the name under which they were logged."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow is left out, being too light for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def read_log(path: str | Path) -> Log:
    """Return all scalars of a run.

    Args:
        path: A ``metrics.csv``, an event file of TensorBoard, or a folder that holds one or the other, at any depth.

    Returns:
        Steps and values by name, in the order of the steps.

    Raises:
        InvalidArgumentError: If there is no log.
    """
    path = Path(path)
    files = (
        [path] if path.is_file() else sorted(path.rglob("metrics.csv")) or sorted(path.rglob("events.out.tfevents.*"))
    )
    log: Log = {}
    for file in files:
        for name, points in (_read_csv(file) if file.suffix == ".csv" else _read_events(file)).items():
            steps, values = log.setdefault(name, ([], []))
            steps += points[0]
            values += points[1]
    if not log:
        raise InvalidArgumentError(
            f"no log in {str(path)!r}", "a metrics.csv or an event file of TensorBoard", "Pass the logger's `log_dir`"
        )
    return {name: _in_order(*points) for name, points in log.items()}


def plot_curves(
    runs: Mapping[str, Sequence[Log]],
    name: str,
    *,
    label: str = "",
    against: str = "step",
    ax: Axes | None = None,
) -> Axes:
    """Draw a logged value over time: for every method the mean over its runs, in a band of one standard deviation.

    Args:
        runs: Logs of the runs of every method, see :func:`read_log`, by the name of the method.
        name: The value, as it was logged, such as ``"plasticity/effective_rank/mean"``.
        label: Label of the value axis; default: ``name``.
        against: ``"step"``, or the name of a logged value to take as time, such as ``"plasticity/experience"``.
        ax: Axes to draw into; default: new ones.

    Returns:
        The axes. Points in time that not all runs of a method have are left out.

    Raises:
        InvalidArgumentError: If a run has not logged the value.
    """
    ax = _axes(ax)
    for color, (method, logs) in zip(_repeated(COLORS, len(runs)), runs.items(), strict=True):
        times, values = _aligned([_curve(log, name, against) for log in logs])
        mean = values.mean(0)
        ax.plot(times, mean, color=color, label=f"{method} ({len(logs)} runs)" if len(logs) > 1 else method)
        if len(logs) > 1:
            spread = values.std(0)
            ax.fill_between(times, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel="optimizer step" if against == "step" else against.rpartition("/")[2], ylabel=label or name)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    if len(runs) > 1 or any(len(logs) > 1 for logs in runs.values()):
        ax.legend(frameon=False)
    return ax


def plot_layers(log: Log, metric: str = "dormant_unit_ratio", *, label: str = "", ax: Axes | None = None) -> Axes:
    """Draw a metric of all layers over time as a map: layers from input (top) to output, time to the right.

    Args:
        log: The log of one run, see :func:`read_log`.
        metric: The metric, as :class:`~lightning_plasticity.callbacks.PlasticityMonitor` names it, or another value
            that is logged per layer, such as ``"mature_fraction"``.
        label: Label of the colours; default: ``metric`` in words.
        ax: Axes to draw into; default: new ones.

    Returns:
        The axes. A layer that was not measured at some step stays blank there.

    Raises:
        InvalidArgumentError: If the log holds no layer of the metric.
    """
    parts = {name: name.split("/", 2) for name in log if name.count("/") > 1}
    parts = {name: each for name, each in parts.items() if each[2] not in AGGREGATES}
    names = {layer: name for name, (_, logged, layer) in parts.items() if logged == metric}
    if not names:
        raise InvalidArgumentError(
            f"a log without a layer of {metric!r}",
            f"one of {sorted({logged for _, logged, _ in parts.values()})}",
            "Correct `metric`",
        )
    layers = sorted(names, key=_natural)
    steps = sorted({step for name in names.values() for step in log[name][0]})
    grid = torch.full((len(layers), len(steps)), torch.nan)
    for row, layer in enumerate(layers):
        for step, value in zip(*log[names[layer]], strict=True):
            grid[row, steps.index(step)] = value
    ax = _axes(ax)
    top = 1.0 if metric.endswith(("_ratio", "_fraction", "_share")) else None
    image = ax.pcolormesh(_edges(steps), range(len(layers) + 1), grid.numpy(), cmap="cividis", vmin=0, vmax=top)
    ax.set_yticks([row + 0.5 for row in range(len(layers))], layers)
    ax.invert_yaxis()
    ax.set_xlabel("optimizer step")
    ax.figure.colorbar(image, ax=ax, label=label or metric.replace("_", " "))
    return ax


def plot_spectrum(spectra: Mapping[int, Tensor], *, ax: Axes | None = None) -> Axes:
    """Draw singular values of features over time, one curve per point in time, from dark (early) to light (late).

    Args:
        spectra: Singular values ``[K]`` by step, such as those of
            :meth:`~lightning_plasticity.metrics.factor.SpectralMetric.singular_values`.
        ax: Axes to draw into; default: new ones.

    Returns:
        The axes. Values are relative to the largest; those that are zero are not drawn.

    Raises:
        InvalidArgumentError: If there are no spectra.
    """
    if not spectra:
        raise InvalidArgumentError("no spectra", "singular values by step", "Collect `metric.singular_values()`")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ax = _axes(ax)
    scale = Normalize(min(spectra), max(max(spectra), min(spectra) + 1))
    for step, sigma in sorted(spectra.items()):
        shown = sigma[sigma > 0].double().cpu()
        if len(shown):
            indices = range(1, len(shown) + 1)
            ax.plot(indices, shown / shown[0], color=colormaps["viridis"](scale(step)), linewidth=1.2)
    ax.set(xlabel="index of the singular value", ylabel="singular value, relative to the largest", yscale="log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.figure.colorbar(ScalarMappable(scale, "viridis"), ax=ax, label="optimizer step")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _read_csv(file: Path) -> Log:
    log: Log = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name != "step" and value:
                    steps, values = log.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return log


def _read_events(file: Path) -> Log:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    series = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    return {name: ([p.step for p in points], [p.value for p in points]) for name, points in series.items()}


def _in_order(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Sort by step; of several values at one step, as after a resume, the last written stands."""
    last = dict(zip(steps, values, strict=True))
    order = sorted(last)
    return order, [last[step] for step in order]


def _curve(log: Log, name: str, against: str) -> dict[float, float]:
    for needed in (name,) if against == "step" else (name, against):
        if needed not in log:
            raise InvalidArgumentError(f"{needed!r}, which was not logged", f"one of {sorted(log)}", "Correct the name")
    points = list(zip(*log[name], strict=True))
    clock: dict[int, float] = dict(zip(*log[against], strict=True)) if against != "step" else {s: s for s, _ in points}
    return {clock[step]: value for step, value in points if step in clock}


def _aligned(curves: Sequence[Mapping[float, float]]) -> tuple[list[float], Tensor]:
    """Return the times that all curves have, ``[T]``, and their values then, ``[R, T]``."""
    times = sorted(set.intersection(*(set(curve) for curve in curves)))
    return times, torch.tensor([[curve[time] for time in times] for curve in curves], dtype=torch.float64)


def _edges(steps: Sequence[int]) -> list[float]:
    """Return the borders of cells around the steps."""
    if len(steps) == 1:
        return [steps[0] - 0.5, steps[0] + 0.5]
    middles = [(a + b) / 2 for a, b in pairwise(steps)]
    return [2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ``net.10`` after ``net.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _repeated(colors: Iterable[str], count: int) -> list[str]:
    colors = list(colors)
    return [colors[i % len(colors)] for i in range(count)]
