"""What is asked of the running utilities of weights, or of units, and of the gates that they make."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.optim.noise import NoiseSource


class Gates(Protocol):
    """One way to assign utilities: to weights or to units."""

    kind: str

    def apply(self, optimizer: Optimizer, noise: NoiseSource) -> None:
        """Observe the gradients of the optimizer's parameters and gate them, in place."""

    def gated(self, optimizer: Optimizer) -> set[Tensor]:
        """Return the parameters of the optimizer that are gated."""

    def scaled(self, optimizer: Optimizer) -> dict[Tensor | str, Tensor]:
        """Return the scaled utilities."""

    def state_dict(self, optimizer: Optimizer) -> Any:
        """Return the running utilities and clocks."""

    def load_state_dict(self, optimizer: Optimizer, state: Any) -> None:
        """Take them over."""
