"""Why layers have no group: one line per layer, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.skipped import Skipped
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.source import Source
from lightning_plasticity.units.tracing.verdict import Verdict

_REMEDIES = {
    "reads it and is frozen": "Nothing, if that is meant; else set requires_grad=True on the weight that reads it",
    "frozen": "Nothing, if that is meant; else set requires_grad=True on it",
    "normalisation layer": "Pass through_norms=True",
    "has no rule": "Replace the operation by others, or leave the layer alone",
    "is tied:": "Give each use a weight of its own to have its units treated",
    "belongs to one unit": "Compute each row of the weight by itself, or remove the parametrisation",
    "silences one unit": "Remove the parametrisation of the layer that reads it",
    "is changed by the forward": "Run the model once before, if it sets the parameter only then",
    "which the model updates": "Use nn.BatchNorm or torch.nn.functional.batch_norm, whose statistics start anew",
    "leave torch": "Keep the computation in PyTorch",
}
_RECURRENT = (
    "it is recurrent, or tied to the layer that reads it: its units feed themselves, which no law covers",
    "",
)
_RECURRENT_LAYER = (
    "it is recurrent ({}): its units feed themselves, which no law covers",
    "Nothing needs to be done: the layers before and after it can have units",
)
_RECURRENT_TYPES = (nn.RNNBase, nn.RNNCellBase)
_UNUSED = "met no activation on the example"
_FACTOR = "is a factor of a computed weight ({}), and no row of that is made of its entries alone"
_ELEMENTWISE = "it is used element by element, and what it meets is no unit"
_STREAM = "its units are a residual stream: other layers add to them as well"
_STREAM_REMEDY = "discover_units(..., residual='group') lists them"
_ON_DATA = "on its data", "Pass a function that runs the model on examples of all kinds"
_AT_RANDOM = "at random", "Pass a function that runs every branch, one after another"

_Why: TypeAlias = tuple[str, str]  # a reason and its remedy


def left_out(verdict: Verdict, groups: Sequence[UnitGroup], streams: Sequence[UnitGroup]) -> tuple[Skipped, ...]:
    """Return the layers with rows that belong to no group, and why, in the order of the model.

    Args:
        verdict: What discovery has found.
        groups: The groups that are offered.
        streams: The groups that are not, because they are residual streams.

    Returns:
        One entry per layer; of several reasons the most frequent first.
    """
    run = verdict.run
    offered = {slot.path for group in groups for slot in group.slots}
    written = {slot.path for group in groups for slot in group.incoming}
    stream = {s.path for group in streams for s in group.incoming + group.norms}  # who only reads one is no part of it
    rows: dict[Source, list[Tensor]] = {}
    for use in run.uses.values():
        if use.role == "in":
            rows.setdefault(use.source, []).append(use.labels[use.labels > 0])

    def of(source: Source) -> Sequence[_Why]:
        if source.path in stream:
            return [(_STREAM, _STREAM_REMEDY)] if source.orientations or source.tensor.ndim > 1 else []
        if isinstance(source.module, _RECURRENT_TYPES) and source.path not in written:
            kind = type(source.module).__name__
            return [(_RECURRENT_LAYER[0].format(kind), _RECURRENT_LAYER[1])] if source.tensor.ndim > 1 else []
        if source.undivided:
            return [_with_remedy(source.undivided)] if source.is_parameter else []
        if source in rows:
            return _of_rows(verdict, source, torch.cat(rows[source]))
        return _of_idle(run, source) if source.is_parameter and source.path not in offered else []

    found: dict[str, dict[str, str]] = {}
    for source in run.sources.all:
        if reasons := of(source):
            found.setdefault(source.layer, {}).update(reasons)
    return tuple(
        Skipped(layer, "; ".join(why), "; ".join(dict.fromkeys(filter(None, why.values()))))
        for layer, why in found.items()
    )


def branching(verdict: Verdict, groups: Sequence[UnitGroup]) -> dict[str, Skipped]:
    """Return why groups are uncertain: a layer that did not run may read or write their units on other examples.

    That may be so if the model looks at its data or at what it draws at random, and the layer is wide enough: what it
    would run on may be flattened, or several activations side by side.

    Args:
        verdict: What discovery has found.
        groups: The groups.

    Returns:
        What to say, by name of the group.
    """
    run = verdict.run
    on = [(_ON_DATA, run.decides), (_AT_RANDOM, run.gambles)]
    ways = [way for (way, _), is_taken in on if is_taken]
    remedy = next((remedy for (_, remedy), is_taken in reversed(on) if is_taken), "")  # that of the latter helps always
    idle = _idle(run.sources.all) if ways else []
    found = {}
    for group in groups:
        rivals = [source.layer for source in idle if _may_use(source, group.size)]
        if rivals:
            how = f"the model branches {' or '.join(ways)}"
            why = f"{how}, and {rivals[0]}, which did not run on the example, may use its units"
            found[group.name] = Skipped(group.name, why, remedy)
    return found


def _idle(sources: Sequence[Source]) -> list[Source]:
    """Return the weights that met no activation; of a recurrent layer, one weight stands for all of them."""
    ran = {source.module for source in sources if source.orientations and isinstance(source.module, _RECURRENT_TYPES)}
    used = (s for s in sources if s.is_parameter and s.tensor.ndim > 1 and s.module not in ran)
    return [source for source in used if not source.orientations and not source.elementwise]


def _may_use(source: Source, units: int) -> bool:
    """Return whether a weight may read ``units``, among others, or add to them.

    Who reads them has a column for each, at least; who adds to them has a row for each, once or several times over.
    Where nobody knows what are rows and what are columns, either will do.
    """
    rows, columns = source.tensor.shape[:2]
    if isinstance(source.module, (nn.Embedding, nn.EmbeddingBag)):  # reads an index, and a column writes
        return columns % units == 0
    if isinstance(source.module, nn.modules.conv._ConvNd) and not source.module.transposed:
        columns *= source.module.groups
    elif not isinstance(source.module, nn.Linear):
        return max(rows, columns) >= units
    return columns >= units or rows % units == 0


def _of_rows(verdict: Verdict, source: Source, labels: Tensor) -> list[_Why]:
    """Return why rows of a weight, with these labels, are no good units; nothing if all are."""
    run = verdict.run
    off = run.labels.off[labels]
    codes = torch.where(off, run.labels.off_reason[labels], verdict.reason[verdict.unit[labels]])
    faulty = codes[codes != 0]
    if len(faulty) and source.problem:
        return [_with_remedy(f"{source.called} {source.problem}")]
    if len(faulty) and source.recurrent:
        return [_RECURRENT]
    found = []
    for code in _by_frequency(faulty):
        share, (why, remedy) = int((faulty == code).sum()), _with_remedy(run.labels.reasons[code])
        found.append((why if share == len(labels) else f"{share} of {len(labels)} units: {why}", remedy))
    return found


def _of_idle(run: Execution, source: Source) -> list[_Why]:
    """Return why a parameter neither writes units nor belongs to any; nothing of one that only has no rows."""
    if source.tensor.ndim > 1 and source.fault:
        return [_with_remedy(f"{source.called} {source.fault}")]
    is_named = source.tensor.ndim > 1 or (source.has_own_name and source.tensor.numel() > 1)
    if source.orientations or not is_named:
        return []
    if source.elementwise and not source.fault:
        faults = run.labels.reason[run.sources.entries(source)]
        codes = _by_frequency(faults[faults != 0])
        return [_with_remedy(run.labels.reasons[codes[0]] if codes else _ELEMENTWISE)]
    if source.factor:
        return [(f"{source.called} {_FACTOR.format(source.factor)}", "Multiply activations with one factor at a time")]
    return [(f"{source.called} {_UNUSED}", "Pass an example that uses it")] if source.tensor.ndim > 1 else []


def _with_remedy(why: str) -> _Why:
    return why, next((remedy for mark, remedy in _REMEDIES.items() if mark in why), "")


def _by_frequency(codes: Tensor) -> list[int]:
    values, counts = codes.unique(return_counts=True)  # type: ignore[no-untyped-call]
    return [int(v) for v in values[counts.argsort(descending=True, stable=True)]]
