"""Keep the mean output of a layer when a unit leaves it: what the unit gave on average becomes a bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.replacement.edits import Replacement
from lightning_plasticity.replacement.memory import State
from lightning_plasticity.replacement.statistic import MeanActivation, Statistic, check_decay_rate
from lightning_plasticity.units import Slot, UnitGroup, write


@dataclass(frozen=True)
class KeepMeanOutput:
    r"""Move the mean contribution of the replaced units into the bias of their reader.

    :math:`b \leftarrow b + \sum_i w_{out, i}\, \hat\mu_i`, with the running mean activation corrected for its age, per
    position after a flatten. It must stand before :class:`~lightning_plasticity.replacement.ZeroOutgoing`, and reads
    what that is about to erase. The reader's own units that are replaced in the same step end with a bias of 0, since
    groups are edited from input to output. Of a convolution all kernel positions are added up, which is exact but for
    the border of a zero-padded map. What is not finite is not moved.

    Args:
        decay_rate: Decay of the running mean activation, in ``[0, 1)``.

    Raises:
        InvalidArgumentError: If ``decay_rate`` is out of its range.
        UnsupportedModelError: If a group is not read by exactly one linear layer or convolution with a bias (when the
            engine is built).

    References:
        Dohare et al., `Continual backprop` (arXiv 2108.06325). Their released code intends it but adds 0, because it
        erases the mean first; the published results are without it.
    """

    decay_rate: float = 0.99

    def __post_init__(self) -> None:
        check_decay_rate(self.decay_rate)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The running mean activation."""
        return (MeanActivation(self.decay_rate),)

    def prepare(self, group: UnitGroup) -> State:
        """Check that the mean output can be moved; hold nothing."""
        _reader(group)
        return {}

    def __call__(self, replacement: Replacement) -> None:
        """Add the mean output of the replaced units to the reader's bias."""
        slot, bias = _reader(replacement.group)
        units = replacement.units
        weights = slot.gather(units)
        mean = MeanActivation.of(replacement.state)[units.to(weights.device)]
        moved = weights * mean.view(*mean.shape, *[1] * (weights.ndim - 2))
        change = torch.zeros_like(slot.tensor, dtype=moved.dtype)
        slot.assign(units, moved.where(moved.isfinite(), 0.0), tensor=change)
        write(bias, (slice(None),), bias + change.flatten(1).sum(1))


def _reader(group: UnitGroup) -> tuple[Slot, torch.Tensor]:
    """Return the only reader of the group and its bias."""
    slot, module = group.outgoing[0], group.outgoing[0].module
    name = slot.path.rpartition(".")[0] or slot.path
    found = f"the units of {group.name!r} are read by {name!r} ({type(module).__name__})"
    reads_tap = group.tap is not None and group.tap.module is module and group.tap.where == "input"
    whole = slot.features == 1 or len(slot.dims) == 1 or (reads_tap and group.tap.index.shape[1] == 1)  # type: ignore[union-attr]
    if len(group.outgoing) > 1:
        found = f"the units of {group.name!r} are read by {len(group.outgoing)} tensors"
    elif not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or not reads_tap or not whole:
        pass
    elif module.bias is None:
        found += ", which has no bias"
    else:
        return slot, module.bias
    raise UnsupportedModelError(
        found,
        "exactly one reader, a linear layer or a convolution with a bias, so that a mean output can move into it",
        "Leave the group out (`exclude=` of callbacks, `units.select(exclude=...)`), or switch the transfer of the "
        "mean output off",
    )
