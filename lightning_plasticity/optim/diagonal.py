"""What every source of curvature does with the entries it has found: gather, average over processes, hand out once."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from lightning_plasticity.errors import InvalidArgumentError


class DiagonalMemory:
    """Diagonal entries by parameter; they accumulate over backward passes as gradients do, until they are taken."""

    def __init__(self) -> None:
        self._diagonal: dict[Tensor, Tensor] = {}
        self._averaged = True
        self._taken: set[Tensor] | None = None  # since the last backward pass that was announced; None: none was

    @property
    def is_waiting(self) -> bool:
        """Whether a backward pass was announced that has not begun."""
        return False

    def expect(self, loss: object) -> None:
        """Prepare for a backward pass: entries whose gradient was set to None are forgotten with it.

        Args:
            loss: What it will begin from.

        Raises:
            InvalidArgumentError: If that is no tensor of one number.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InvalidArgumentError(
                f"a loss of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"loss={loss!r}",
                "a tensor of one number, from which the backward pass begins",
                "Write `hesscale.watch(loss).backward()`; reduce losses to their mean or sum first",
            )
        for parameter in [p for p in self._diagonal if p.grad is None]:
            del self._diagonal[parameter]
        self._averaged, self._taken = False, set()

    def add(self, parameter: Tensor, values: Tensor) -> None:
        """Add diagonal entries of a parameter."""
        known = self._diagonal.get(parameter)
        self._diagonal[parameter] = values if known is None else known + values

    def take(self, parameter: Tensor) -> Tensor:
        """Return the diagonal entries that belong to ``parameter``, and forget them.

        On several processes the first call after a backward pass averages all entries over them, in one reduction, so
        it must be made on all of them.

        Args:
            parameter: A parameter.

        Returns:
            Its part of the diagonal, of its shape, summed over the backward passes since it was last taken; zeros for
            a parameter that they did not reach.

        Raises:
            InvalidArgumentError: If no loss was watched since it was last taken, or another one than was watched went
                backward.
        """
        if self._taken is None or parameter in self._taken or self.is_waiting:
            raise InvalidArgumentError(
                f"{type(self).__name__} as `curvature`, which has not seen the backward pass of this step",
                "a backward pass from a loss that was watched, before every step",
                "Write `hesscale.watch(loss).backward()`; in a LightningModule, `self.manual_backward(loss)`",
            )
        self._taken.add(parameter)
        if not self._averaged:
            self._average()
        known = self._diagonal.pop(parameter, None)
        if known is None:
            return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32)).detach()
        return known

    def _average(self) -> None:
        self._averaged = True
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return
        if self._diagonal:
            flat = torch.cat([part.flatten() for part in self._diagonal.values()])
            distributed.all_reduce(flat)
            flat /= distributed.get_world_size()
            means = torch.split(flat, [part.numel() for part in self._diagonal.values()])
            self._diagonal = {p: mean.view_as(p) for p, mean in zip(self._diagonal, means, strict=True)}
