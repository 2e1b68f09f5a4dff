"""The law of discovery that nothing is passed over in silence."""

from __future__ import annotations

from torch import nn

from lightning_plasticity.units import UnitMap


def passed_over(model: nn.Module, units: UnitMap) -> list[str]:
    """Return the parameters of two or more dimensions that are in no slot and whose layer has no reason either.

    A shared parameter counts once, under its first name, and those of a parametrization count as their layer.
    """
    explained = {skip.layer for skip in units.skipped if skip.reason}
    for slot in (slot for group in units for slot in group.slots):
        explained.add(slot.path.partition(".parametrizations.")[0])
    names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    return [
        name
        for name in names
        if explained.isdisjoint({name, name.rpartition(".")[0], name.partition(".parametrizations.")[0]})
    ]
