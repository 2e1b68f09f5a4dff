"""By how much every entry of the weights acts on the output, to first order: all of them from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_plasticity.units.group import Tap
from lightning_plasticity.units.proof.batch_norm import WrittenOutBatchNorm
from lightning_plasticity.units.proof.comparison import as_real
from lightning_plasticity.units.proof.laws import Chosen
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.proof.unread import Owned, passing_none
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.tensors import tensors_in

Listener = Callable[[Tensor, Tensor], None]
"""Receives a parameter (or buffer) of the model and the effect of each of its entries."""


def effects(
    box: Sandbox,
    listener: Listener,
    *,
    statistics: bool = False,
    unread: Chosen = (),
    beside: Owned = (),
    seen: tuple[Tap, Tensor] | None = None,
) -> bool:
    """Hand the effect of every entry of every weight to ``listener``, one tensor at a time, so that none is kept.

    The effect is the derivative of a random combination of the outputs, relative to their size, times the size of the
    tensor; so it is, to first order, the relative change of the output as the entry is redrawn.

    Args:
        box: The model.
        listener: Receives each tensor and the effects, absolute, in its shape. Tensors that the output does not depend
            on are left out.
        statistics: Whether running statistics are listened to as well.
        unread: Leave out what acts through these units of some groups. The model computes what it always computes; only
            derivatives are not passed on by what reads them. (Not where these weights are computed.)
        beside: Leave out what acts through these entries where they sum over several features, see
            :class:`~lightning_plasticity.units.proof.summing.Summing`.
        seen: Take the effect on what this tap shows of these units, in place of that on the output.

    Returns:
        False if the model could not be differentiated; the listener may have received some tensors nevertheless.
    """
    modes: list[AbstractContextManager[Any]] = [WrittenOutBatchNorm()] if statistics else []
    readers = [(slot, units) for group, units in unread for slot in group.outgoing]
    modes += [passing_none(readers)] if readers else []
    try:
        with (
            torch.enable_grad(),
            box.running(*modes),
            _leaves(box, listener, statistics) as leaves,
            _shown(*seen) if seen else nullcontext() as shown,
        ):
            with box.not_through(beside) if beside else nullcontext():
                outputs = [as_real(tensor) for tensor in tensors_in(box.call())]
            combined = _combined(outputs if shown is None else shown, box)
            if not combined.requires_grad or not combined.isfinite():
                return False
            box.backward(combined, leaves)
    except Exception:  # whatever keeps a model from being differentiated, redrawing can tell the same, only slower
        return False
    return True


def largest(slots: Sequence[Slot]) -> tuple[dict[int, float], Listener]:
    """Return a table that the returned listener fills: the largest effect in each slot, by ``id(slot)``."""
    found = {id(slot): 0.0 for slot in slots}
    lying_in = by_tensor(slots)

    def listen(tensor: Tensor, effect: Tensor) -> None:
        for slot in lying_in.get(id(tensor), ()):
            found[id(slot)] = float(largest_per_unit(slot, effect).max())

    return found, listen


def by_tensor(slots: Iterable[Slot]) -> dict[int, list[Slot]]:
    """Return the slots in each tensor, by ``id(tensor)``; to be asked before others stand in for the tensors."""
    found: dict[int, list[Slot]] = {}
    for slot in slots:
        found.setdefault(id(slot.tensor), []).append(slot)
    return found


def largest_per_unit(slot: Slot, effect: Tensor) -> Tensor:
    """Return the largest effect of an entry of each unit in ``slot``, ``[U]``, given those of the whole tensor."""
    entries = slot.view(effect)
    rest = tuple(range(len(slot.dims), entries.ndim))
    per_feature = entries.amax(rest) if rest else entries
    return per_feature[slot.tables(effect.device)].amax(1)


def _combined(outputs: Sequence[Tensor], box: Sandbox) -> Tensor:
    """Return a random combination of all outputs, each relative to its largest entry."""
    total = torch.zeros((), dtype=box.dtype, device="cpu")
    for output in outputs:
        if output.is_floating_point() and output.numel():
            size = output.detach().abs().max().clamp_min(torch.finfo(output.dtype).tiny)
            total = total + (output * box.normal(output.shape).to(output)).sum() / size
    return total


@contextmanager
def _leaves(box: Sandbox, listener: Listener, statistics: bool) -> Generator[list[Tensor], None, None]:
    """Put tensors of our own in the place of all weights: those of the user may have hooks, and have gradients."""
    leaves: dict[int, Tensor] = {}

    def leaf_of(tensor: Tensor) -> Tensor:
        if id(tensor) not in leaves:
            leaf = leaves[id(tensor)] = tensor.detach().requires_grad_()
            leaf.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(_hand_over, tensor, box, listener)
            )
        return leaves[id(tensor)]

    for module in box.model.modules():  # what modules hold is put back by the sandbox
        holders: list[dict[str, Any]] = [module._parameters]
        holders += [module._buffers] if statistics and _is_norm(module) else []
        for holder in holders:
            for name, tensor in holder.items():
                if tensor is not None and tensor.is_floating_point():
                    holder[name] = leaf_of(tensor)
    yield list(leaves.values())


@contextmanager
def _shown(tap: Tap, units: Tensor) -> Generator[list[Tensor], None, None]:
    """Collect what the tap shows of the units, with its history."""
    shown: list[Tensor] = []
    handle = tap.watch(lambda activation: shown.append(tap.samples(activation)[:, tap.index[units].flatten()]))
    try:
        yield shown
    finally:
        handle.remove()


def _hand_over(tensor: Tensor, box: Sandbox, listener: Listener, leaf: Tensor) -> None:
    assert leaf.grad is not None  # noqa: S101 - it has just been accumulated
    effect, leaf.grad = leaf.grad.abs_().mul_(box.size(tensor)), None
    listener(tensor, effect)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase)
