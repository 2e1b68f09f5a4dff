"""Operations that move numbers without computing: labels move with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, foreign
from lightning_plasticity.units.tracing.pairs import PRODUCT, SUM
from lightning_plasticity.units.tracing.rules.call import Call, operands_in
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule
from lightning_plasticity.units.tracing.rules.unknown import unknown
from lightning_plasticity.units.tracing.rules.vanishing import is_zero, shifted
from lightning_plasticity.units.tracing.shadow import compact, regroup, restrict
from lightning_plasticity.units.tracing.why import INDEX

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


def _spoil_indices(run: Execution, tensors: list[Tensor]) -> None:
    for t in tensors:
        run.spoil(run.of(t), INDEX)


@rule("cat")
def cat(run: Execution, call: Call) -> Labelling:
    """Concatenate: the labels stand side by side along one dimension."""
    parts = [t for t in call.args[0] if t.ndim == call.out.ndim]
    dim = int(call["dim"]) % call.out.ndim
    found = [_along(run.of(t), t, dim) for t in parts]
    return _joined(found, dim)


@rule("stack")
def stack(run: Execution, call: Call) -> Labelling:
    """Stack along a new dimension."""
    dim = int(call["dim"]) % call.out.ndim
    parts = [run.of(t) for t in call.args[0]]
    found = [torch.zeros([1] * call.out.ndim, dtype=torch.long) if p is None else p.unsqueeze(dim) for p in parts]
    return _joined(found, dim)


def _along(labels: Tensor | None, tensor: Tensor, dim: int) -> Tensor:
    if labels is None:
        labels = torch.zeros([1] * tensor.ndim, dtype=torch.long)
    return labels.expand(
        [n if d == dim else m for d, (n, m) in enumerate(zip(tensor.shape, labels.shape, strict=True))]
    )


def _joined(parts: list[Tensor], dim: int) -> Tensor | None:
    shape = [max(p.shape[d] for p in parts) for d in range(parts[0].ndim)]
    wide = [p.expand([p.shape[d] if d == dim else n for d, n in enumerate(shape)]) for p in parts]
    joined = torch.cat(wide, dim)
    if not joined.any():
        return None
    first = joined.narrow(dim, 0, 1)
    return first if torch.equal(joined, first.expand_as(joined)) else joined


@rule("roll flip index_select")
def along(run: Execution, call: Call) -> Labelling:
    """Reorder or choose along dimensions; nothing happens to labels that do not vary there."""
    x = call.args[0]
    labels = run.of(x)
    if call.name == "index_select":
        _spoil_indices(run, [call["index"]])
    if labels is None:
        return None
    given: Any = call.bound.get("dims", call.bound.get("dim"))
    dims = [d % x.ndim for d in ([given] if isinstance(given, int) else given)] or list(range(x.ndim))
    if all(labels.shape[d] == 1 for d in dims):
        return labels
    wide = labels.expand([n if d in dims else m for d, (n, m) in enumerate(zip(x.shape, labels.shape, strict=True))])
    return _again(call, wide)


@rule(
    "index gather slice_scatter select_scatter diagonal_scatter tril triu unfold_copy repeat im2col pixel_shuffle "
    "pixel_unshuffle channel_shuffle _unsafe_index take index_put scatter repeat_interleave diag_embed rot90"
)
def rearrange(run: Execution, call: Call) -> Labelling:
    """Choose, repeat or reorder: do the same with labels of the full size."""
    x = call.args[0]
    own = run.of(x)
    if not x.is_floating_point() and not x.is_complex() and (own is None or not (own > FOREIGN).any()):
        return foreign(call.out.ndim)
    if call.name in {"index_put", "scatter"} and (call.bound.get("accumulate") or call.bound.get("reduce")):
        return unknown(run, call)
    indices = operands_in(v for k, v in call.bound.items() if v is not x and k not in _WRITTEN and k != "out")
    _spoil_indices(run, indices)
    by_example = any(map(run.is_data, indices))
    numbers = [v for k, v in call.bound.items() if k in _WRITTEN and not _is_labelled(run, v)]
    if by_example and numbers:  # a number that is not zero remains where the example says
        return run.meet(own, foreign(x.ndim), PRODUCT if is_zero(run, numbers[0]) else SUM)
    if by_example and own is None:
        return foreign(call.out.ndim)
    names = [name for name, _ in call.signature.arguments]
    args = [_moved(run, name, value) for name, value in zip(names, call.args, strict=False)]
    return _again(call, _full(own, x), *args[1:])


_WRITTEN = {"src", "values", "value"}
"""The arguments that are written into a copy of the first one."""


def _is_labelled(run: Execution, value: Any) -> bool:
    return isinstance(value, Tensor) and (run.is_data(value) or run.is_weight(value))


def _moved(run: Execution, name: str, value: Any) -> Any:
    """Return the labels of what is written, and every other argument as it is."""
    if name not in _WRITTEN:
        return value
    return _full(run.of(value), value) if isinstance(value, Tensor) else NOBODY


def _full(labels: Tensor | None, tensor: Tensor) -> Tensor:
    return torch.full((1,), NOBODY).expand(tensor.shape) if labels is None else labels.expand(tensor.shape)


def _again(call: Call, *args: Any) -> Tensor | None:
    """Run the operation on labels; as floating-point numbers, which hold them exactly, where it has no other kernel."""
    moved = [_host(a) for a in (*args, *call.args[len(args) :])]
    if call.signature.written:
        moved[0] = moved[0].clone()
    kwargs = {k: torch.empty(0, dtype=torch.long) if k == "out" else _host(v) for k, v in call.kwargs.items()}
    try:
        found = call.func(*moved, **kwargs)
    except NotImplementedError:
        kwargs |= {"out": torch.empty(0, dtype=torch.double)} if "out" in kwargs else {}
        found = call.func(moved[0].double(), *moved[1:], **kwargs).long()
    found = compact(found)
    return found if found.any() else None


def _host(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_host(v) for v in value]
    return value.cpu() if isinstance(value, Tensor) else value


@rule(
    "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d"
)
def pad(run: Execution, call: Call) -> Labelling:
    """Pad: constants are neutral, so labels that do not vary along the padded dimensions stay as they are."""
    x, widths = call.args[0], call.args[1]
    labels = run.of(x)
    if labels is None:
        return None
    padded = [x.ndim - 1 - i // 2 for i, width in enumerate(widths) if width != 0]
    if all(labels.shape[d] == 1 for d in padded):
        return shifted(run, call, [labels])
    wide = labels.expand(x.shape)
    if call.name == "constant_pad_nd":
        return compact(torch.constant_pad_nd(wide, widths, 0))
    found: Tensor = call.func(wide.double(), widths)
    return compact(found.long())


@rule("index_add scatter_add index_copy scatter_reduce index_reduce masked_scatter")
def accumulate(run: Execution, call: Call) -> Labelling:
    """Add or write slices along a dimension: neutral where labels do not vary along it."""
    x, dim = call.args[0], call.bound.get("dim")
    source = call.bound.get("source", call.bound.get("src"))
    _spoil_indices(run, operands_in((call.bound.get("index"), call.bound.get("mask"))))
    own, other = run.of(x), run.of(source) if isinstance(source, Tensor) else None
    if isinstance(dim, int) and all(
        labels is None
        or (
            labels.ndim == x.ndim
            and all(n in {1, m} for n, m in zip(labels.shape, x.shape, strict=True))
            and labels.shape[dim] == 1
        )
        for labels in (own, other)
    ):
        labels = run.meet(own, other, SUM)
        constants = [t for t, of in ((x, own), (source, other)) if t is not None and (of is None or not of.any())]
        return labels if labels is None or all(is_zero(run, t) for t in constants) else run.labels.shift(labels)
    return unknown(run, call)


@rule("transpose t squeeze unsqueeze")  # views are followed by other means: these write
def reshape_in_place(run: Execution, call: Call) -> Labelling:
    """Leave the labels: they lie in memory beside the numbers, which stay where they are."""
    return run.shadow.labels(call.outs[0])


@rule("_reshape_copy view_copy _unsafe_view")
def reshape(run: Execution, call: Call) -> Labelling:
    """Reshape into new memory."""
    labels = run.of(call.args[0])
    return None if labels is None else regroup(labels, tuple(call.args[0].shape), tuple(call.out.shape))


@rule("split_copy unsafe_split unsafe_split_with_sizes split_with_sizes_copy unbind_copy")
def split(run: Execution, call: Call) -> Labelling:
    """Split into new memory."""
    x = call.args[0]
    labels = run.of(x)
    if labels is None:
        return [None] * len(call.outs)
    return [restrict(part) for part in call.func(labels.expand(x.shape), *call.args[1:], **call.kwargs)]
