"""Run a model many times with changed entries, and leave it exactly as it was found.

A :class:`Sandbox` swaps the data of every parameter and buffer for a copy in double precision and generic position,
so that the user's own numbers are never touched; leaving it swaps them back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_plasticity.units.refusals import check_model, unwrapped
from lightning_plasticity.units.restoring import (
    attributes_restored,
    buffer_values_restored,
    random_state_restored,
    seed_everything,
    uncompiled,
    unfused_attention,
)
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.tensors import tensors_in, to_generic_position

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[], Any]


class Sandbox:
    """A model whose numbers may be changed at will; use it through :func:`sandbox`.

    Args:
        model: The model, its data already swapped.
        call: Runs the model once.
        inputs: The floating-point tensors it runs on, if they are known.
        dtype: The precision, which decides the relative change of an output that counts as none.
        seed: Seed of the global generators before every run, so that dropout draws the same mask every time, and of the
            values that are drawn.
    """

    def __init__(
        self, model: nn.Module, call: Callable[[], Any], inputs: Sequence[Tensor], dtype: torch.dtype, seed: int
    ) -> None:
        self.model, self.call, self._inputs, self.dtype, self.seed = model, call, inputs, dtype, seed
        self.tolerance = _TOLERANCE[dtype]
        self.generator = torch.Generator().manual_seed(seed)
        self.training = False
        self.runs = 0
        self._undo: list[tuple[Slot, Tensor, Tensor]] = []

    def run(self, *modes: TorchDispatchMode) -> list[Tensor]:
        """Run the model once in the chosen mode and return every tensor of its output, detached.

        Args:
            modes: Dispatch modes that watch or change the run.

        Returns:
            The tensors of the output in a fixed order.
        """
        self.model.train(self.training)
        self.runs += 1
        with ExitStack() as stack:
            stack.enter_context(attributes_restored(self.model))
            stack.enter_context(buffer_values_restored(self.model))
            stack.enter_context(torch.no_grad())
            for mode in (_Promotion(self.dtype), *modes):
                stack.enter_context(mode)
            seed_everything(self.seed)
            return [tensor.detach().clone() for tensor in tensors_in(self.call())]

    @contextmanager
    def edited(self) -> Generator[None, None, None]:
        """Undo, at the end of the block, everything that was written in it."""
        start = len(self._undo)
        try:
            yield
        finally:
            while len(self._undo) > start:
                slot, units, values = self._undo.pop()
                slot.assign(units, values, tensor=slot.tensor.data)

    def assign(self, slot: Slot, units: Tensor, values: Tensor | float) -> None:
        """Write ``values`` to the entries of ``units``; undone at the end of :meth:`edited`."""
        self._undo.append((slot, units, slot.gather(units)))
        slot.assign(units, values, tensor=slot.tensor.data)

    def fill(self, slots: Iterable[Slot], units: Tensor, value: float) -> None:
        """Set the entries of ``units`` in every slot to ``value``."""
        for slot in slots:
            self.assign(slot, units, value)

    def redraw(self, slots: Iterable[Slot], units: Tensor, scale: float = 1.0) -> None:
        """Draw the entries of ``units`` anew, normally distributed with ``scale`` times the size they have now."""
        for slot in slots:
            size = scale * (float(slot.tensor.detach().square().mean().sqrt()) or 1.0)
            values = self.normal(slot.gather(units).shape)
            if slot.kind == "variance":  # a running variance: nobody may redraw it below zero
                values = values.abs() + 0.1
            self.assign(slot, units, size * values)

    def swap(self, slots: Iterable[Slot], one: Tensor, other: Tensor) -> None:
        """Exchange the entries of the units ``one`` with those of the units ``other``, slot by slot."""
        for slot in slots:
            first, second = slot.gather(one), slot.gather(other)
            self.assign(slot, one, second)
            self.assign(slot, other, first)

    def silence(self, slots: Iterable[Slot], units: Tensor, constant: float = 0.0, weight: float = 0.0) -> None:
        """Write zeros, but one as a variance, ``constant`` where the entries are added, and ``weight`` as a weight."""
        for slot in slots:
            value = {"variance": 1.0, "bias": constant, "shift": constant, "weight": weight}.get(slot.kind, 0.0)
            self.assign(slot, units, value)

    @contextmanager
    def shaken(self) -> Generator[None, None, None]:
        """Move every trainable parameter, and the inputs unless a callable holds them, during the block."""
        moved = [p.data for p in self.model.parameters() if p.requires_grad and p.is_floating_point()]
        saved = [(tensor, tensor.clone()) for tensor in (*moved, *self._inputs)]
        try:
            for tensor, value in saved:
                tensor.add_(0.1 * value.square().mean().sqrt() * self.normal(value.shape).to(value))
            yield
        finally:
            for tensor, value in saved:
                tensor.copy_(value)

    def normal(self, shape: Iterable[int]) -> Tensor:
        """Return normally distributed numbers of the sandbox's own generator."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)

    def choose(self, size: int, count: int) -> Tensor:
        """Return ``count`` (at most all) of ``size`` units, without repetition, in random order."""
        return torch.randperm(size, generator=self.generator)[:count]


@contextmanager
def sandbox(
    model: nn.Module, example_inputs: ExampleInputs, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Generator[Sandbox, None, None]:
    """Lend out a model in ``dtype`` and generic position; everything is put back at the end, also after an error.

    Args:
        model: The model.
        example_inputs: A tensor, a tuple or mapping of arguments, or a callable that runs the model.
        dtype: The precision to compute in: float64, or float32 for models that do not fit otherwise.
        seed: Seed of all that is drawn.

    Yields:
        The sandbox.

    Raises:
        UnsupportedModelError: If the model is of a kind that cannot be taken apart, such as a lazy one.
    """
    check_model(model)
    model = unwrapped(model)
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(random_state_restored(model))
        stack.enter_context(attributes_restored(model))
        stack.enter_context(unfused_attention())
        stack.enter_context(uncompiled())
        stack.enter_context(_data_swapped(model, dtype, generator))
        call, inputs = _call(model, example_inputs, dtype)
        yield Sandbox(model, call, inputs, dtype, seed)


def _call(
    model: nn.Module, example_inputs: ExampleInputs, dtype: torch.dtype
) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return what runs the model once, and the floating-point tensors it runs on."""
    if callable(example_inputs):
        return example_inputs, []
    single = isinstance(example_inputs, Tensor)
    leaves, structure = tree_flatten((example_inputs,) if single else example_inputs)
    leaves = [_to_float(leaf, dtype) for leaf in leaves]
    inputs = tree_unflatten(leaves, structure)
    call = (lambda: model(**inputs)) if isinstance(inputs, Mapping) else (lambda: model(*inputs))
    return call, [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _to_float(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype, copy=True) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


class _Promotion(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keep a run in one precision: a float32 batch or constant is promoted, a cast to less precision is not made."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].dtype == self._dtype and _is_float(kwargs.get("dtype")):
            kwargs = {**kwargs, "dtype": self._dtype}
        floats = {tensor.dtype for tensor in _tensor_arguments(args, kwargs) if tensor.is_floating_point()}
        if len(floats) < 2:
            return func(*args, **kwargs)
        written = [
            a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write
        ]
        targets = [a.dtype for a in written if isinstance(a, Tensor) and a.is_floating_point()] or list(floats)
        dtype = max(targets, key=lambda candidate: candidate.itemsize)

        def promote(leaf: Any) -> Any:
            lower = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != dtype
            return leaf.to(dtype) if lower and not any(leaf is w for w in written) else leaf

        args, kwargs = tree_map(promote, (args, kwargs))
        return func(*args, **kwargs)


def _tensor_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Return the tensors among the arguments of an operation.

    Yields:
        The tensors; they are never nested deeper than in one list.
    """
    for argument in (*args, *kwargs.values()):
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(item, Tensor):
                yield item


def _is_float(dtype: torch.dtype | None) -> bool:
    return dtype is not None and dtype.is_floating_point


@contextmanager
def _data_swapped(model: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> Generator[None, None, None]:
    originals = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    storages: dict[int, Tensor] = {}
    try:
        for tensor, data in originals:
            tensor.data = _copy(data, dtype, storages)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                to_generic_position(parameter.data, generator)
        yield
    finally:
        for tensor, data in originals:
            tensor.data = data


def _copy(data: Tensor, dtype: torch.dtype, storages: dict[int, Tensor]) -> Tensor:
    """Return a copy with the same strides; tensors that share storage go on sharing it."""
    key = data.untyped_storage().data_ptr()
    if key not in storages:
        whole = torch.empty(0, dtype=data.dtype, device=data.device).set_(data.untyped_storage())
        storages[key] = whole.to(dtype, copy=True) if data.is_floating_point() else whole.clone()
    return storages[key].as_strided(data.shape, data.stride(), data.storage_offset())
