"""Follow every operation of a model with its rule."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_plasticity.units.tracing.labels import NOBODY, foreign
from lightning_plasticity.units.tracing.rules import (
    attention,
    contractions,
    moves,
    norms,
    pointwise,
    recurrent,
    reductions,
    views,
    windows,
)
from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.registry import Rule, rule_of
from lightning_plasticity.units.tracing.rules.unknown import unknown
from lightning_plasticity.units.tracing.rules.vanishing import is_zero
from lightning_plasticity.units.tracing.shadow import Origin
from lightning_plasticity.units.tracing.source import CHANGED
from lightning_plasticity.units.tracing.tape import Step

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution
    from lightning_plasticity.units.tracing.seen import Seen

_WITH_RULES = (attention, contractions, moves, norms, pointwise, recurrent, reductions, windows)
"""The modules that are imported only so that their rules are registered."""

_MADE_FROM_NOTHING = (
    "empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones "
    "ones_like new_ones full full_like new_full rand rand_like randn randn_like randint randint_like randperm "
    "arange linspace logspace eye scalar_tensor tril_indices triu_indices lift_fresh lift_fresh_copy bernoulli "
    "uniform normal normal_functional random exponential geometric cauchy log_normal hann_window"
)
"""The operations of which no number that goes in matters, but shapes at most."""

_FROM_NOTHING = frozenset(_MADE_FROM_NOTHING.split())

_READ = ("p", "mean", "std", "start", "end")
"""The arguments of them whose numbers do matter, if they are tensors."""


def observe(run: Execution, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Follow one operation of the model: note what it computed and label the results.

    Args:
        run: The state of the run.
        func: The operation that was executed.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
    """
    call = Call(func, args, kwargs, out)
    seen = [run.look(t) for t in call.inputs]
    from_nothing = _is_from_nothing(call)
    if not from_nothing and any(each.is_data for each in seen):
        for t in call.written:
            run.of(t, pointwise.kind_in(call))  # what parameters made of it has labels before the rest is data
        for t in call.outs:
            run.shadow.mark(t, Origin.DATA)
        _label(run, call, [run.look(t) for t in call.inputs] if call.written else seen)
        for t in call.written:
            if not run.is_data(t) and not run.is_weight(t):
                run.shadow.put(t, foreign(t.ndim))  # a buffer that holds data now
        return
    if (constant := _read_by_layer(run, call, seen)) is not None:
        _run_on_constant(run, call, constant)
        return
    if call.signature.is_random or any(map(run.chance.made, call.inputs)):
        run.chance.add(call.outs)
    if rule_of(call) is pointwise.pointwise:
        run.updates.derive(call.inputs, call.outs)
    weights = not from_nothing and any(each.is_weight for each in seen)
    for t in call.outs:
        if run.sources.find(t) is None:
            run.shadow.mark(t, Origin.DERIVED if weights else Origin.CONSTANT)
            if call.signature.written:
                run.shadow.put(t, None)
    if weights and not call.signature.is_view:
        run.tape.record(Step(func, args, kwargs, call.inputs, call.outs, call.written))


def _read_by_layer(run: Execution, call: Call, seen: list[Seen]) -> Tensor | None:
    """Return what a layer reads if it runs on parameters or constants, such as learned queries or a first state.

    It is what a module was called with and multiplies with a weight of its own. Else parameters that are multiplied
    with each other make a weight, such as a merged adapter.
    """
    if call.name not in _LAYERS or not any(each.is_weight for each in seen):
        return None
    for each in seen:
        module = run.frames.called_with(each.tensor)
        if module is not None and any(_is_weight_of(module, other) for other in seen if other is not each):
            return None if _is_weight_of(module, each) else each.tensor
    return None


_LAYERS = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "convolution"})


def _is_weight_of(module: nn.Module, seen: Seen) -> bool:
    return (
        seen.source is not None and seen.source.is_parameter and seen.source.module is module and seen.tensor.ndim > 1
    )


def _run_on_constant(run: Execution, call: Call, constant: Tensor) -> None:
    """Follow a layer that runs on parameters or constants as if these were data; zeros belong to nobody."""
    labels = run.of(constant, "bias")
    if labels is None:
        labels = torch.full_like(foreign(constant.ndim), NOBODY) if is_zero(run, constant) else foreign(constant.ndim)
    run.read = constant, labels
    for t in call.outs:
        run.shadow.mark(t, Origin.DATA)
    _label(run, call, [run.look(t) for t in call.inputs])
    run.read = None


def _is_from_nothing(call: Call) -> bool:
    """Return whether no number that goes in matters, but shapes at most."""
    if call.name not in _FROM_NOTHING or call.func is torch.ops.aten.bernoulli.default:
        return False
    return not any(isinstance(call.bound.get(name), Tensor) for name in _READ)


def label_step(run: Execution, step: Step) -> None:
    """Label the results of an operation on parameters, now that they are used element-wise."""
    call = Call(step.func, step.args, step.kwargs, step.outputs if len(step.outputs) != 1 else step.outputs[0])
    _label(run, call, [run.look(t) for t in call.inputs])


def _label(run: Execution, call: Call, seen: list[Seen]) -> None:
    for source in map(run.sources.find, call.written):
        if source is not None and source.is_parameter:
            source.fault = CHANGED
        elif source is not None and any(each.is_data and each.source is not source for each in seen):
            run.updates.update(source)
    if not any(each.labels is not None or each.is_weight for each in seen):
        return  # without labels, data is foreign
    key = _key(run, call, seen)
    results = run.memory.recall(key, run.runs)
    if results is None:
        results = _conclude(run, call)
        run.memory.keep(key, run.runs, results, [each.labels for each in seen])
    put = run.shadow.remember_view if call.signature.is_view else run.put
    for t, found in zip(call.outs, results, strict=False):
        put(t, found)


def _conclude(run: Execution, call: Call) -> list[Tensor | None]:
    if call.signature.is_view:
        return views.follow(run, call)
    rule: Rule = rule_of(call) or unknown
    labels = rule(run, call)
    found = labels if isinstance(labels, list) else [labels]
    assert all(map(_fits, found, call.outs)), f"labels of a wrong shape for {call.name}"  # noqa: S101 - our own bug
    return found


def _fits(labels: Tensor | None, tensor: Tensor) -> bool:
    return labels is None or (
        labels.ndim == tensor.ndim and all(n in {1, m} for n, m in zip(labels.shape, tensor.shape, strict=True))
    )


def _key(run: Execution, call: Call, seen: list[Seen]) -> Hashable | None:
    """Return what the conclusion depends on; None if it is not known."""
    identities = [each.identity for each in seen]
    if run.tape.is_labelling or None in identities:
        return None
    return call.func, tuple(t.shape for t in call.outs), tuple(identities), call.options, tuple(call.kwargs)
