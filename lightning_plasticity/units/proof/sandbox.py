"""Run a model many times with changed entries, and leave it exactly as it was found.

A :class:`Sandbox` computes with a copy of every parameter and buffer, in double precision and generic position, so that
the user's own numbers are never touched. What is written in a block of :meth:`Sandbox.edited` is undone at its end;
what :meth:`Sandbox.redraw_weights` does stays until the sandbox is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_plasticity.units.example import ExampleInputs, how_to_run
from lightning_plasticity.units.proof.batch_norm import MeasuredStatistics
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.computed_weights import ComputedWeights
from lightning_plasticity.units.proof.precision import Promotion
from lightning_plasticity.units.proof.summing import Summing
from lightning_plasticity.units.proof.swapping import data_swapped
from lightning_plasticity.units.proof.unread import Owned
from lightning_plasticity.units.refusals import check_model, unwrapped
from lightning_plasticity.units.restoring import (
    attributes_restored,
    random_state_restored,
    seed_everything,
    uncompiled,
    unfused_attention,
    values_restored,
)
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.tensors import tensors_in

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

_LARGEST_DOUBLE = 2**27
"""Weights of larger models are stored in single precision; double-precision inputs promote them where they are used."""


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
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.training = False
        self.runs = 0
        self._undo: list[Callable[[], None]] = []
        self._sizes: dict[int, float] = {}
        self._outputs: list[Tensor] = []
        self._promotion = Promotion(dtype)

    def run(self, *modes: AbstractContextManager[Any]) -> list[Tensor]:
        """Run the model once in the chosen mode and return every tensor of its output, detached.

        A model that fails with changed entries, say because it checks that a deviation is positive, returns NaN.

        Args:
            modes: Modes that watch or change the run.

        Returns:
            The tensors of the output in a fixed order.
        """
        try:
            with torch.no_grad(), self.running(*modes):
                return [tensor.detach().clone() for tensor in tensors_in(self.call())]
        except Exception as error:
            if not self._undo or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                raise
            return [torch.full_like(tensor, torch.nan) for tensor in self._outputs if tensor.is_floating_point()]

    def is_finite(self, outputs: Sequence[Tensor]) -> bool:
        """Return whether ``outputs`` are finite wherever those of the first run are."""
        return not math.isnan(difference(self._outputs, outputs))

    @contextmanager
    def running(self, *modes: AbstractContextManager[Any]) -> Generator[None, None, None]:
        """Make everything ready for one run, and put back afterwards what the run has changed in the model.

        Args:
            modes: Modes that watch or change the run.

        Yields:
            Nothing; :attr:`call` runs the model.
        """
        self.model.train(self.training)
        self.runs += 1
        with ExitStack() as stack:
            stack.enter_context(attributes_restored(self.model))
            stack.enter_context(values_restored(self.model))
            for mode in (self._promotion, *modes):
                stack.enter_context(mode)
            seed_everything(self.seed)
            yield

    def backward(self, value: Tensor, leaves: Sequence[Tensor]) -> None:
        """Give ``leaves`` the derivatives of ``value``, which was computed in :meth:`running`."""
        with self._promotion.narrowing():
            torch.autograd.backward(value, inputs=leaves)

    def measure_statistics(self) -> bool:
        """Give batch norms running statistics that fit what they see in evaluation mode, as training would have done.

        Returns:
            Whether the model runs, and returns a number wherever it did so far.
        """
        statistics, training, self.training = MeasuredStatistics(self.generator), self.training, False
        try:
            outputs = self.run(statistics)
        except Exception:  # whoever runs the model next is told
            return False
        finally:
            self.training = training
        self._outputs = self._outputs or outputs
        if not self.is_finite(outputs):
            return False
        statistics.write()
        return True

    @contextmanager
    def edited(self) -> Generator[None, None, None]:
        """Undo, at the end of the block, everything that was written in it."""
        start = len(self._undo)
        try:
            yield
        finally:
            while len(self._undo) > start:
                self._undo.pop()()

    def assign(self, slot: Slot, units: Tensor, values: Tensor | float) -> None:
        """Write ``values`` to the entries of ``units``; undone at the end of :meth:`edited`."""
        self._remember(slot, units)
        slot.assign(units, values, tensor=slot.tensor.data)

    def _remember(self, slot: Slot, units: Tensor) -> Tensor:
        """Return the entries of ``units``, which are written back at the end of :meth:`edited`."""
        values = slot.gather(units)
        self._undo.append(partial(slot.assign, units, values, tensor=slot.tensor.data))
        return values

    def fill(self, slots: Iterable[Slot], units: Tensor, value: float) -> None:
        """Set the entries of ``units`` in every slot to ``value``."""
        for slot in slots:
            self.assign(slot, units, value)

    def redraw(self, slots: Iterable[Slot], units: Tensor, scale: float = 1.0) -> None:
        """Draw the entries of ``units`` anew, normally distributed with ``scale`` times the size they have now."""
        for slot in slots:
            size = scale * self.size(slot.tensor)
            values = self.normal(self._remember(slot, units).shape)
            if slot.kind == "variance":  # a running variance: nobody may redraw it below zero
                values = values.abs() + 0.1
            slot.assign(units, size * values, tensor=slot.tensor.data)

    def swap(self, slots: Iterable[Slot], one: Tensor, other: Tensor) -> None:
        """Exchange the entries of the units ``one`` with those of the units ``other``, slot by slot."""
        for slot in slots:
            if slot.is_disjoint:
                self._undo.append(partial(_exchange, slot, one, other))
            else:  # a wrong slot: to exchange its entries again does not undo it
                self._remember(slot, torch.cat([one, other]))
            _exchange(slot, one, other)

    def silence(self, slots: Iterable[Slot], units: Tensor, bias: float = 0.0) -> None:
        """Write zeros, but one as a variance, and ``bias`` where the entries are added."""
        for slot in slots:
            self.assign(slot, units, {"variance": 1.0, "bias": bias, "shift": bias}.get(slot.kind, 0.0))

    def computed_weights(self, zeroed: Sequence[Tensor] = ()) -> ComputedWeights:
        """Return what watches the computed weights of this model in a run, and sets entries of them to zero."""
        return ComputedWeights(self._stored(), zeroed)

    def not_through(self, entries: Owned) -> Summing:
        """Return what lets no derivative pass entries of weights in a run, where they sum over several features."""
        return Summing(self._stored(), entries)

    def _stored(self) -> Iterator[Tensor]:
        return chain(self.model.parameters(), self.model.buffers())

    def redraw_weights(self) -> None:
        """Mix every trainable parameter with random entries of its size, for good, if the model can run with them.

        What holds of units holds with any weights; a unit that is dead, and hides a mistake, is not so with all.
        """
        state, root = self.generator.get_state(), math.sqrt(2)
        for values, noise, size in self._with_noise():
            values.div_(root).add_(noise, alpha=size / root)
        if not self.measure_statistics():
            self.generator.set_state(state)
            for values, noise, size in self._with_noise():
                values.sub_(noise, alpha=size / root).mul_(root)

    def _with_noise(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield the entries of every trainable parameter, random ones of size 1, and the size of the parameter."""
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                yield parameter.data, self.normal(parameter.shape).to(parameter.device), self.size(parameter)

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

    def size(self, tensor: Tensor) -> float:
        """Return the root mean square of a parameter or buffer as it was when first asked for; 1 if it was zero."""
        if id(tensor) not in self._sizes:
            self._sizes[id(tensor)] = float(tensor.detach().abs().square().mean().sqrt()) or 1.0
        return self._sizes[id(tensor)]

    def normal(self, shape: Iterable[int]) -> Tensor:
        """Return normally distributed numbers of the sandbox's own generator, in single precision: many, and fast."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float32, device="cpu")

    def choose(self, size: int, count: int) -> Tensor:
        """Return ``count`` (at most all) of ``size`` units, without repetition, in random order."""
        return torch.randperm(size, generator=self.generator, device="cpu")[:count]


def _exchange(slot: Slot, one: Tensor, other: Tensor) -> None:
    first, second = slot.gather(one), slot.gather(other)
    slot.assign(one, second, tensor=slot.tensor.data)
    slot.assign(other, first, tensor=slot.tensor.data)


@contextmanager
def sandbox(
    model: nn.Module, example_inputs: ExampleInputs, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Generator[Sandbox, None, None]:
    """Lend out a model in ``dtype`` and generic position; everything is put back at the end, also after an error.

    Args:
        model: The model.
        example_inputs: What the model runs on, see :data:`~lightning_plasticity.units.example.ExampleInputs`.
        dtype: The precision to compute in: float64, or float32 for models that do not fit otherwise.
        seed: Seed of all that is drawn.

    Yields:
        The sandbox.

    Raises:
        InvalidArgumentError: If ``example_inputs`` are none.
        UnsupportedModelError: If the model is of a kind that cannot be taken apart, such as a lazy one.
    """
    check_model(model)
    model = unwrapped(model)
    generator = torch.Generator("cpu").manual_seed(seed)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(random_state_restored(model))
        stack.enter_context(attributes_restored(model))
        stack.enter_context(unfused_attention())
        stack.enter_context(uncompiled())
        heavy = sum(p.numel() for p in model.parameters()) > _LARGEST_DOUBLE and not callable(example_inputs)
        stack.enter_context(data_swapped(model, torch.float32 if heavy else dtype, dtype, generator))
        call, inputs = how_to_run(model, example_inputs, dtype)
        box = Sandbox(model, call, inputs, dtype, seed)
        box.measure_statistics()
        yield box
