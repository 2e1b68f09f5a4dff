"""Whether the layers of units are still part of the model, asked at every step and told in a microsecond."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_plasticity.errors import StateMismatchError
from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.unit_map import UnitMap


class Links:
    """Remembers under which names the layers of a map hang in their model; an exchanged one no longer does.

    Args:
        units: The map. Groups without one know of no model, so that nothing is ever noticed of them.

    Raises:
        StateMismatchError: If a layer is gone already.

    Example:
        >>> import torch
        >>> from lightning_plasticity import discover_units
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> links = Links(discover_units(model, torch.randn(2, 4)))
        >>> before, model[2] = links.hold(), nn.Linear(8, 3)
        >>> before, links.hold()
        (True, False)
    """

    def __init__(self, units: UnitMap | Sequence[UnitGroup]) -> None:
        self._unit_map = units if isinstance(units, UnitMap) else None
        self._links: list[tuple[nn.Module, str, nn.Module]] = []
        self._look()

    def check(self) -> None:
        """Refuse to go on if a layer is no longer part of the model.

        Raises:
            StateMismatchError: If one is gone.
        """
        for parent, name, child in self._links:
            if parent._modules.get(name) is not child:
                self._look()  # it may hang elsewhere, such as in a wrapper
                return

    def hold(self) -> bool:
        """Return whether all layers are still part of the model."""
        try:
            self.check()
        except StateMismatchError:
            return False
        return True

    def _look(self) -> None:
        if self._unit_map is not None:
            self._unit_map.check_bound()
            self._links = _links(self._unit_map)


def _links(unit_map: UnitMap) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return parent, name and child on the way from the model to the layers of all groups."""
    needed = {slot.module for group in unit_map for slot in group.slots}
    needed |= {group.tap.module for group in unit_map if group.tap is not None}
    links = []
    for parent in reversed([*unit_map.model.modules()]):  # so that children come before their parents
        for name, child in parent._modules.items():
            if child is not None and child in needed:
                links.append((parent, name, child))
                needed.add(parent)
    return links
