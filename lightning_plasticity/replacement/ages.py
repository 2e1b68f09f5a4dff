"""How old every unit is: host bookkeeping that never asks the device.

Ages follow from the steps and the replacements alone, so they are kept on the host; a training step in which nothing
is replaced needs no answer from the device. Instead of adding one to every age, the step of birth is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Ages:
    """The ages of the units of one group, in optimizer steps.

    Args:
        size: Number of units ``U``.

    Attributes:
        step: Optimizer steps in which the group was seen.
        born: Step of (re)birth of every unit, ``[U]``, int64, on the host.
        carry: The fraction of a unit that is still due, in ``[0, 1)``; a Python float, since float32 rounds off.
        replaced: Units replaced so far.
    """

    def __init__(self, size: int) -> None:
        self.step, self.carry, self.replaced = 0, 0.0, 0
        self.born = torch.zeros(size, dtype=torch.int64, device="cpu")
        self._threshold, self._mature, self._next = -1, 0, 0

    @property
    def age(self) -> Tensor:
        """Optimizer steps since birth, ``[U]``."""
        return self.step - self.born

    def advance(self) -> None:
        """Let one optimizer step pass."""
        self.step += 1

    def mature_units(self, maturity_threshold: int) -> Tensor:
        """Return the units older than the threshold, oldest first, then by index."""
        order = torch.argsort(self.born, stable=True)
        return order[: self.mature_count(maturity_threshold)]

    def mature_count(self, maturity_threshold: int) -> int:
        """Return the number of units older than the threshold; counted anew only when some unit comes of age."""
        if maturity_threshold != self._threshold or self.step >= self._next:
            ages = self.age
            young = ages[ages <= maturity_threshold]
            self._threshold, self._mature = maturity_threshold, len(ages) - len(young)
            wait = maturity_threshold + 1 - int(young.max()) if len(young) else 2**62
            self._next = self.step + wait
        return self._mature

    def renew(self, units: Tensor) -> None:
        """Set the age of ``units`` to zero."""
        self.born[units] = self.step
        self.replaced += len(units)
        self._threshold = -1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the ages as plain tensors."""
        return {
            "step": torch.tensor(self.step, device="cpu"),
            "carry": torch.tensor(self.carry, dtype=torch.float64, device="cpu"),
            "replaced": torch.tensor(self.replaced, device="cpu"),
            "born": self.born.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over ages returned by :meth:`state_dict`."""
        self.step, self.carry, self.replaced = int(state["step"]), float(state["carry"]), int(state["replaced"])
        self.born.copy_(state["born"])
        self._threshold = -1
