"""Run a model without leaving a trace: what a forward pass may change, and how to put it back."""

from __future__ import annotations

import random
import sys
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.attention import SDPBackend, sdpa_kernel

_CONTAINERS = frozenset({list, dict, set, deque, OrderedDict, defaultdict})


@contextmanager
def untouched(model: nn.Module) -> Generator[Callable[[Tensor], None], None, None]:
    """Put everything back that a forward pass may change: modes, attributes, numbers, random states, global flags.

    Gradients are never touched, since nothing is recorded for autograd. Attention is written out as products and a
    softmax meanwhile, so that labels can follow.

    Args:
        model: The model.

    Yields:
        What has to be told of tensors that are about to be written, see :func:`parameters_restored`; the model may be
        run inside.
    """
    with ExitStack() as stack:
        stack.enter_context(attributes_restored(model))
        stack.enter_context(values_restored(model))
        stack.enter_context(random_state_restored(model))
        stack.enter_context(unfused_attention())
        stack.enter_context(uncompiled())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield stack.enter_context(parameters_restored(model))


@contextmanager
def attributes_restored(model: nn.Module) -> Generator[None, None, None]:
    """Put back what is bound to a module and what its containers hold: modes, caches, replaced buffers, new layers."""
    saved = []
    for module in model.modules():
        attributes = vars(module)
        contents = {name: value.copy() for name, value in attributes.items() if type(value) in _CONTAINERS}
        saved.append((attributes, dict(attributes), contents))
    try:
        yield
    finally:
        for attributes, before, contents in saved:
            attributes.clear()
            attributes.update(before)
            for name, content in contents.items():
                if content or before[name]:  # most are empty: the hooks that a module does not have
                    refill(before[name], content)


def refill(container: Any, content: Any) -> None:
    """Give a container its contents back, unless it still has them; others may hold it, so it keeps its identity."""
    if isinstance(container, dict):
        same = list(container) == list(content) and all(container[key] is content[key] for key in content)
    else:  # by identity: tensors do not compare to a truth value
        same = len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))
    if not same:
        container.clear()
        (container.extend if isinstance(container, (list, deque)) else container.update)(content)


@contextmanager
def values_restored(model: nn.Module) -> Generator[None, None, None]:
    """Put back the numbers in buffers, such as running statistics, and in tensors that are plain attributes.

    Metrics keep their states in such attributes. Parameters are left alone: few models write them while they run, and
    copies of all of them cost, see :func:`parameters_restored`.
    """
    modules = list(model.modules())
    buffers = [buffer.data for module in modules for buffer in module._buffers.values() if buffer is not None]
    numbers = [(data, data.clone()) for data in buffers]
    held = [value for module in modules for value in vars(module).values() if isinstance(value, Tensor)]
    states = [(tensor, tensor.clone(), version_of(tensor)) for tensor in held if tensor.layout is torch.strided]
    try:
        yield
    finally:
        for data, value in numbers:
            data.copy_(value)
        for tensor, value, version in states:
            if version_of(tensor) != version:
                tensor.data.copy_(value)


@contextmanager
def parameters_restored(model: nn.Module) -> Generator[Callable[[Tensor], None], None, None]:
    """Put back the memory of parameters and the numbers in it: some models clip or renormalise them while they run.

    Only what is written is copied, when it is about to be.

    Args:
        model: The model.

    Yields:
        What has to be told of every tensor before it is written.
    """
    held = [(p, p.data) for p in model.parameters() if p.layout is torch.strided]
    owners: dict[int, list[Tensor]] = {}
    for parameter, data in held:
        owners.setdefault(data.untyped_storage()._cdata, []).append(parameter)
    saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    with ExitStack() as versions:

        def keep(tensor: Tensor) -> None:
            if tensor.layout is not torch.strided:  # it has no memory of its own
                return
            storage = tensor.untyped_storage()
            if storage._cdata in owners and storage._cdata not in saved:
                saved[storage._cdata] = storage, storage.clone()  # type: ignore[no-untyped-call]
                for parameter in owners[storage._cdata]:  # its numbers come back, so autograd need not know
                    versions.enter_context(_unsafe_preserve_version_counter(parameter))

        try:
            yield keep
        finally:
            for parameter, data in held:
                if not _is_same_memory(parameter, data):
                    parameter.data = data
            for storage, numbers in saved.values():
                storage.copy_(numbers)


def _is_same_memory(tensor: Tensor, other: Tensor) -> bool:
    same = tensor.data_ptr() == other.data_ptr() and tensor.dtype is other.dtype
    return same and tensor.shape == other.shape and tensor.stride() == other.stride()


def version_of(tensor: Tensor) -> int:
    """Return how often ``tensor`` was written to; 0 where nobody counts (tensors made in inference mode)."""
    return 0 if tensor.is_inference() else tensor._version


def seed_everything(seed: int) -> None:
    """Seed the global generators of PyTorch (on all devices), Python and, if it is in use, NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):  # some models draw masks with it
        numpy.random.seed(seed)


@contextmanager
def random_state_restored(model: nn.Module) -> Generator[None, None, None]:
    """Put back the global generators of PyTorch (also on the devices of the model), Python and NumPy."""
    held = [p for module in model.modules() for p in module._parameters.values() if p is not None]
    devices = {parameter.device.index for parameter in held if parameter.is_cuda}
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


@contextmanager
def unfused_attention() -> Generator[None, None, None]:
    """Keep encoder layers off the fused path, inside of which no statistic can be held constant."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def uncompiled() -> AbstractContextManager[None]:
    """Let compiled parts run as they were written: nothing is compiled for a run that is not in earnest."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and asking for it would take seconds
        return nullcontext()
    set_stance = getattr(torch.compiler, "set_stance", None)  # from PyTorch 2.6
    stance: AbstractContextManager[None] = nullcontext() if set_stance is None else set_stance("force_eager")
    return stance
