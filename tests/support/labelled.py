"""Operations under labels without a whole discovery: put labels on tensors, compute, look at those of the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_plasticity.units.naming import module_names
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.frames import Frames
from lightning_plasticity.units.tracing.labels import Labels
from lightning_plasticity.units.tracing.rules import label_step
from lightning_plasticity.units.tracing.shadow import Origin
from lightning_plasticity.units.tracing.sources import Sources
from lightning_plasticity.units.tracing.trace import LabelMode


class Bench:
    """A run under labels.

    Args:
        model: Owns the parameters that are used; default none.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        names = module_names(model or nn.Module())
        self.labels = Labels()
        self.run = Execution(self.labels, Sources(model or nn.Module(), self.labels, names), Frames(names), label_step)

    def data(self, *shape: int, dims: tuple[int, ...] = (-1,), values: Tensor | None = None) -> Tensor:
        """Return data with a unit of its own at every position along ``dims``; with none if there are no ``dims``."""
        x = torch.randn(shape) if values is None else values
        kept = [dim % x.ndim for dim in dims]
        size = [n if d in kept else 1 for d, n in enumerate(x.shape)]
        self.run.shadow.put(x, torch.ones([1] * x.ndim, dtype=torch.long))
        self.run.shadow.mark(x, Origin.DATA)
        if dims:
            self.run.put(x, self.labels.fresh(torch.Size(size).numel()).reshape(size))
        return x

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Apply a function under labels."""
        with torch.no_grad(), LabelMode(self.run):
            return function(*args, **kwargs)

    def of(self, x: Tensor) -> Tensor:
        """Return the labels of all numbers of ``x``, in its shape."""
        found = self.run.of(x)
        return torch.zeros(x.shape, dtype=torch.long) if found is None else found.expand(x.shape)

    def reasons(self, x: Tensor) -> set[str]:
        """Return why units of ``x`` are spoiled; the empty string stands for those that are not."""
        self.labels.settle()
        return {self.labels.reasons[code] for code in self.labels.reason[self.of(x)].flatten().tolist()}
