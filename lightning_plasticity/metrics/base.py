"""What all metrics of this package share: states that take their size from the first batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override


class Reads(Enum):
    """What a metric is updated with, so that a monitor can feed it."""

    FEATURES = auto()
    """Activations of a layer."""
    FEATURE_GRADIENTS = auto()
    """Gradients of the loss by the activations of a layer."""
    WEIGHTS = auto()
    """Weights of a layer."""
    WEIGHTS_AND_INITIAL = auto()
    """Weights of a layer, and those it started with."""
    WEIGHTS_AND_PREVIOUS = auto()
    """Weights of a layer, and those before the last step."""
    WEIGHT_GRADIENTS = auto()
    """Gradients of the weights of a layer."""
    OPTIMIZER_STATE = auto()
    """One kind of state that the optimizer keeps for the weights of a layer."""
    PREDICTIONS = auto()
    """Outputs of the whole network and what they should have been; not a measure of one layer."""
    LOSSES = auto()
    """Losses of the same samples before and after an update; not a measure of one layer either."""


class PlasticityMetric(Metric):
    """Base of the metrics whose number of features or units is known only from the first batch.

    A state is a tensor, or a list of tensors ``[rows, features]``, that is empty until then. Torchmetrics merges
    states of equal shape only, so a process that saw no data could not take part in a synchronisation, nor a fresh
    metric in ``merge_state``; here empty states are left out of the reduction.
    """

    reads: ClassVar[Reads] = Reads.FEATURES

    full_state_update = False
    is_differentiable = False

    def join(self, name: str, parts: Sequence[Tensor]) -> Tensor:
        """Return what the states of several processes or batches are together.

        Args:
            name: The state.
            parts: Its values; empty ones are those of processes that saw no data.

        Returns:
            The value for all data.
        """
        reduction = cast("Callable[[Tensor], Tensor]", self._reductions[name])
        filled = [part for part in parts if part.numel()]
        if not filled:
            return parts[0]
        return torch.cat(filled) if reduction == dim_zero_cat else reduction(torch.stack(filled))

    def _condense(self) -> None:
        """Shrink states that have grown; called before they travel and after they were merged."""

    @override
    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        self._condense()
        for name in self._defaults:
            state = getattr(self, name)
            local = self.one(state) if isinstance(state, list) else state
            joined = self.join(name, dist_sync_fn(local, group=process_group or self.process_group))
            setattr(self, name, [joined] if isinstance(state, list) else joined)

    @override
    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        for name in self._defaults:
            local, other = getattr(self, name), incoming_state[name]
            setattr(self, name, other + local if isinstance(local, list) else self.join(name, [other, local]))
        self._condense()

    def one(self, state: list[Tensor]) -> Tensor:
        """Return a list state as one tensor, ``[0, 0]`` if it is empty.

        Args:
            state: The list.

        Returns:
            Its tensors, concatenated.
        """
        return torch.cat(state) if state else torch.zeros(0, 0, dtype=torch.float64, device=self.device)

    @override
    def reset(self) -> None:
        """Forget all data."""
        for name, default in self._defaults.items():
            if isinstance(default, list):  # torchmetrics would clear the list that a wrapper may have put aside
                setattr(self, name, [])
        super().reset()

    @override
    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or several values of the metric.

        Args:
            val: A value of ``compute`` or ``forward``, or a list of them, which is drawn as a curve; default: compute.
            ax: The matplotlib axes to draw into; default: new ones.

        Returns:
            The figure and the axes.
        """
        return self._plot(val, ax)
