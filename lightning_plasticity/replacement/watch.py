"""Observe the activations of a group while the model trains: sums per unit, never the activations themselves.

A watch is a forward hook that adds to preallocated tensors. That keeps it right under micro-batches, activation
checkpointing and ``torch.compile``, where a hook may change tensors but must not count in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.functional.utility import absolute_sum, sum_over_samples
from lightning_plasticity.replacement.memory import Held
from lightning_plasticity.units import Tap

Observe = Callable[["Reading"], None]

MOST_PASSES = 1000
"""Forward passes between two steps of an optimizer that nobody needs, however gradients are accumulated."""


class Reading:
    """One activation seen in one forward pass.

    One object per tap is used again for every pass, since a hook runs at every step.

    Args:
        tap: Where it is read.
        device: Device of the tensors to come.

    Attributes:
        activation: The tapped tensor, detached.
        gradient: The loss's gradient with respect to it; None in the forward pass.
        samples: The number of samples; every position of every example is one.
        first: Whether it is known to be the first since the last step, so that sums may be written instead of added.
    """

    __slots__ = ("_in_order", "_index", "activation", "first", "gradient", "samples", "tap")

    activation: Tensor
    gradient: Tensor | None
    samples: int
    first: bool

    def __init__(self, tap: Tap, device: torch.device | None = None) -> None:
        self.tap = tap
        self._index = tap.index.to(device)
        flat = tap.index.flatten().cpu()
        self._in_order = torch.equal(flat, torch.arange(flat.numel(), device="cpu"))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values``, shaped like the activation, over the samples: per feature, ``[U, K]``."""
        return self._fold(sum_over_samples(values, self.tap.dim))

    def add_to(self, total: Tensor, what: Held) -> None:
        """Add the activations, or their magnitudes, summed over the samples, to ``total``, ``[U, K]``."""
        values, dim = self.activation, self.tap.dim
        if what == "activation sum":
            total += self.sum(values)
        elif not self.first or not self._in_order or values.shape[dim] != total.numel():
            total += self._fold(absolute_sum(values, dim))
        else:
            absolute_sum(values, dim, out=total.view(-1))

    def row_of(self, total: Tensor) -> Tensor | None:
        """Return ``total`` in the shape of a batch of one sample, ``[1, U * K]``, if the units own it in order."""
        return total.view(1, -1) if self._in_order and self.tap.dim == -1 else None

    def _fold(self, per_feature: Tensor) -> Tensor:
        """Return a value per feature of the tensor, ``[F]``, as one per feature of a unit, ``[U, K]``."""
        if self._in_order and per_feature.shape[0] == self._index.numel():
            return per_feature.view(self._index.shape)
        if self._index.device != per_feature.device:
            self._index = self._index.to(per_feature.device)
        return per_feature[self._index]

    def examples(self, values: Tensor) -> Tensor:
        """Return the sum of ``values``, shaped like the activation, over the positions of every example: ``[N, U]``.

        The first dimension counts examples, unless it holds the features; the features of a unit are added up.
        """
        dim = self.tap.dim % values.ndim
        batch = values.movedim(dim, -1)
        if dim == 0:
            batch = batch[None]
        batch = batch.sum(tuple(range(1, batch.ndim - 1))) if batch.ndim > 2 else batch
        return batch[:, self.tap.index.to(batch.device)].sum(2)

    def spread(self, values: Tensor) -> Tensor:
        """Return a value per unit, ``[U]``, in a shape that broadcasts to the activation; 0 for other features."""
        dim, shape = self.tap.dim % self.activation.ndim, [1] * self.activation.ndim
        shape[dim] = self.activation.shape[dim]
        index = self.tap.index.to(values.device)
        features = values.new_zeros(shape[dim])
        features[index] = values[:, None].expand(index.shape)
        return features.view(shape)


class Watch:
    """Feeds the readings of one group to its memory while the reading layer trains.

    It reads forward passes in training mode with gradients enabled.

    Args:
        tap: Where to read.
        sums: Tensors ``[U, K]`` in which activations are added up, and what of them.
        observers: Functions that receive every reading.
        device: Device on which passes are counted whose hooks were compiled: there Python does not count.
        reads_gradient: Whether to read in the backward pass, with the gradient, instead. In a compiled model that
            breaks the graph at the tap.
        unstepped: Called when there were ``MOST_PASSES`` passes since the last step.
    """

    def __init__(
        self,
        tap: Tap,
        sums: Sequence[tuple[Tensor, Held]],
        observers: Sequence[Observe],
        device: torch.device,
        *,
        reads_gradient: bool = False,
        unstepped: Callable[[], None] = lambda: None,
    ) -> None:
        self.tap, self.reads_gradient, self._unstepped = tap, reads_gradient, unstepped
        self._sums, self._observers, self._module = sums, observers, tap.module
        self._samples, self._passes = 0, 0
        self._compiled = False  # set by a compiled pass; it is only ever written there, so it costs no recompilation
        self._compiled_samples = torch.zeros((), device=device)
        self._reading = Reading(tap, device)
        self._row = self._only_row()
        self._handle: RemovableHandle | None = None

    def _only_row(self) -> Tensor | None:
        """The only tensor to fill, as a batch of one sample, if magnitudes are summed in it and no more is asked."""
        if self._observers or self.reads_gradient or [what for _, what in self._sums] != ["absolute activation sum"]:
            return None
        return self._reading.row_of(self._sums[0][0])

    def attach(self) -> None:
        """Start watching."""
        self.detach()
        self._handle = self.tap.watch(self._listen)

    def detach(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def collect(self) -> Tensor | int | None:
        """Return the samples (times positions) seen since the last call, and count anew; None if there were none.

        Returns:
            A Python number; after a compiled pass a 0-d tensor on the device.
        """
        count: Tensor | int | None = self._samples or None
        self._samples = self._passes = 0
        if self._compiled:
            count = self._compiled_samples.clone() + (count or 0)
            self._compiled_samples.zero_()
            self._compiled = False
        return count

    def _listen(self, activation: Tensor) -> None:
        if not (self._module.training and torch.is_grad_enabled()):
            return
        row = self._row
        if row is not None and self._is_first() and activation.shape == row.shape:  # online learning: a single kernel
            torch.abs(activation.detach(), out=row)
            self._samples = 1
        elif not self.reads_gradient:
            self._take(activation.detach(), None)
        elif activation.requires_grad:
            values = activation.detach()
            activation.register_hook(lambda gradient: self._take(values, gradient.detach()))  # type: ignore[no-untyped-call]

    def _is_first(self) -> bool:
        """Whether this is known to be the first reading since the last step; compiled code does not know."""
        return not (torch.compiler.is_compiling() or self._samples or self._compiled)

    def _take(self, activation: Tensor, gradient: Tensor | None) -> None:
        if gradient is not None:  # a scaled loss that overflows costs the step, not the memory of all steps before
            gradient = torch.where(gradient.isfinite(), gradient, 0)
        reading = self._reading
        reading.activation, reading.gradient = activation, gradient
        reading.samples = samples = activation.numel() // (activation.shape[self.tap.dim] or 1)
        reading.first = self._is_first()
        for total, what in self._sums:
            reading.add_to(total, what)
        for observe in self._observers:
            observe(reading)
        del reading.activation, reading.gradient  # the engine must not keep what autograd may free
        if torch.compiler.is_compiling():
            self._compiled_samples.add_(samples)
            self._compiled = True
        else:
            self._samples += samples
            self._passes += 1
            if self._passes == MOST_PASSES:
                self._unstepped()
