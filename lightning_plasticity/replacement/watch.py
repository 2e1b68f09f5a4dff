"""Observe the activations of a group while the model trains: sums per unit, never the activations themselves.

A watch is a forward hook that adds to preallocated tensors. That keeps it right under micro-batches, activation
checkpointing and ``torch.compile``, where a hook may change tensors but must not count in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.functional.utility import sum_over_samples
from lightning_plasticity.units import Tap

Observe = Callable[["Reading"], None]


@dataclass(frozen=True)
class Reading:
    """One activation seen in one forward pass.

    Args:
        activation: The tapped tensor, detached.
        gradient: The loss's gradient with respect to it; None in the forward pass.
        tap: Where it was read.
        identity: Whether feature ``k`` of unit ``u`` is feature ``u * K + k`` of the tensor.
    """

    activation: Tensor
    gradient: Tensor | None
    tap: Tap
    identity: bool

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values``, shaped like the activation, over the samples: per feature, ``[U, K]``."""
        total = sum_over_samples(values, self.tap.dim)
        if self.identity and total.shape[0] == self.tap.index.numel():
            return total.view(self.tap.index.shape)
        return total[self.tap.index.to(total.device)]

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
    """Feeds the readings of one group to an observer while the reading layer trains.

    Args:
        tap: Where to read.
        observe: Receives the readings of forward passes in training mode with gradients enabled.
        reads_gradient: Whether ``observe`` is to be called in the backward pass, with the gradient, instead.

    Attributes:
        samples: Samples (times positions) seen since :meth:`collect`, when not compiled.
    """

    def __init__(self, tap: Tap, observe: Observe, *, reads_gradient: bool = False) -> None:
        self.tap, self.observe, self.reads_gradient = tap, observe, reads_gradient
        self.samples = 0
        self.compiled = False
        self.compiled_samples: Tensor | None = None
        index = tap.index.cpu()
        self._identity = torch.equal(index.flatten(), torch.arange(index.numel()))
        self._handle: RemovableHandle | None = None

    def attach(self, samples: Tensor) -> None:
        """Start watching; ``samples`` is a 0-d tensor on the device in which compiled passes count."""
        self.compiled_samples = samples
        self._handle = self.tap.watch(self._listen)

    def detach(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def collect(self) -> Tensor | int | None:
        """Return the samples seen since the last call, and start counting anew; None if there were none.

        Returns:
            A Python number; after a compiled pass, where Python does not count, a 0-d tensor on the device.
        """
        count: Tensor | int | None = self.samples or None
        self.samples = 0
        if self.compiled:
            assert self.compiled_samples is not None  # noqa: S101 - set by attach
            count = self.compiled_samples.clone() + (count or 0)
            self.compiled_samples.zero_()
        return count

    def _listen(self, activation: Tensor) -> None:
        if not (self.tap.module.training and torch.is_grad_enabled()):
            return
        if not self.reads_gradient:
            self._take(activation.detach(), None)
        elif activation.requires_grad:
            values = activation.detach()
            activation.register_hook(lambda gradient: self._take(values, gradient.detach()))  # type: ignore[no-untyped-call]

    def _take(self, activation: Tensor, gradient: Tensor | None) -> None:
        samples = activation.numel() // max(1, activation.shape[self.tap.dim])
        with torch.no_grad():
            self.observe(Reading(activation, gradient, self.tap, self._identity))
            if torch.compiler.is_compiling():
                assert self.compiled_samples is not None  # noqa: S101 - set by attach, which registers this hook
                self.compiled_samples.add_(samples)
                self.compiled = True
            else:
                self.samples += samples
