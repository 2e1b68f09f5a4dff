"""The mean absolute weights of units, on the way in and out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units import Slot, UnitGroup


def outgoing_magnitude(group: UnitGroup) -> Tensor:
    """Return the mean absolute outgoing weight of every feature, ``[U, K]``, or of every unit, ``[U, 1]``.

    The mean is over all entries of all readers. Where several features of a unit are observed (behind a flatten) and
    the only reader sees the same, they are kept apart; several rows of a grouped convolution may read one feature.
    """
    observed = 1 if group.tap is None else group.tap.index.shape[1]
    if len(group.outgoing) == 1 and group.outgoing[0].features == observed:
        return group.outgoing[0].feature_magnitude()
    return mean_magnitude(group.outgoing)[:, None]


def incoming_magnitude(group: UnitGroup) -> Tensor:
    """Return the mean absolute incoming weight of every unit, without its bias, ``[U]``."""
    return mean_magnitude([slot for slot in group.incoming if slot.kind == "weight"])


def mean_magnitude(slots: Sequence[Slot]) -> Tensor:
    """Return the mean absolute entry of every unit over all entries of all slots, ``[U]``."""
    sizes = [slot.entries_per_unit for slot in slots]
    shares = [slot.magnitude() * (size / sum(sizes)) for slot, size in zip(slots, sizes, strict=True)]
    return torch.stack(shares).sum(0) if len(shares) > 1 else shares[0]
