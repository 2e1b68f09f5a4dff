"""Whether the layers of units are still part of the model, and no others have come, asked at every step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_plasticity.errors import StateMismatchError
from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.naming import modules_by_name, parameter_shapes
from lightning_plasticity.units.unit_map import UnitMap


class Links:
    """Remembers under which names the layers of a map hang in their model; an exchanged one no longer does.

    A layer that is added beside one of them, or beside a module that holds them, such as the head of another task, may
    read their units, of which the map knows nothing.

    Attributes:
        model: The model of the map; None for groups without one.
        idle: The layers that did not run on the example, with their names.
        added: Dotted names of the parameters of layers that were added since.

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
        self.model = None if self._unit_map is None else self._unit_map.model
        self._layers: list[tuple[nn.Module, str, nn.Module]] = []
        self._weights: list[tuple[nn.Module, str, Tensor]] = []
        self._children: list[tuple[nn.Module, int]] = []
        self._known: set[nn.Module] = set() if self._unit_map is None else _known(self._unit_map)
        self.added: list[str] = []
        self._has_told = False
        self._look()
        self._tell()
        self.idle = [] if self._unit_map is None else _idle(self._unit_map)

    def accept(self) -> None:
        """Take the layers that are there now for known."""
        if self._unit_map is not None:
            self._known = {*self._unit_map.model.modules()}
        self.added = []

    def check(self) -> bool:
        """Refuse to go on if a layer, or a weight of one, is no longer part of the model; warn, once, of added ones.

        Returns:
            Whether all are the same, at the same places, as when this was asked the last time.

        Raises:
            StateMismatchError: If one is gone.
        """
        if self._are_the_same():
            return True
        self._look()
        self._tell()
        return False

    def hold(self) -> bool:
        """Return whether all layers and weights are still part of the model, and no layer was added."""
        try:
            if not self._are_the_same():
                self._look()
        except StateMismatchError:
            return False
        return not self.added

    def _are_the_same(self) -> bool:
        for parent, name, child in self._layers:
            if parent._modules.get(name) is not child:
                return False
        for layer, name, weight in self._weights:
            if layer._parameters.get(name) is not weight:
                return False
        return all(len(parent._modules) == count for parent, count in self._children)

    def _look(self) -> None:
        """Look where everything is now: it may hang elsewhere, such as in a wrapper."""
        if self._unit_map is not None:
            self._unit_map.check_bound()
            self._layers, self._weights = _layers(self._unit_map), _weights(self._unit_map)
            self._children = [(parent, len(parent._modules)) for parent in {parent for parent, _, _ in self._layers}]
            modules = modules_by_name(self._unit_map.model)
            paths = parameter_shapes(self._unit_map.model)
            self.added = [path for path in paths if modules[path.rpartition(".")[0]] not in self._known]

    def _tell(self) -> None:
        """Warn, once, of layers that were added."""
        if not self.added or self._has_told:
            return
        self._has_told = True
        warnings.warn(
            f"{self.added} were added to the model after its units were found: their own units are not known, and if "
            "they read others, a replacement of those is not silent for them. Find the units of the model as it is now "
            "(`discover_units`), and build what uses them anew.",
            stacklevel=4,
        )


def _known(units: UnitMap) -> set[nn.Module]:
    """Return the modules that were there when the units were found."""
    modules = modules_by_name(units.model)
    later = {modules[path.rpartition(".")[0]] for path in parameter_shapes(units.model) if path not in units.shapes}
    return {*units.model.modules()} - later


def _layers(units: UnitMap) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return parent, name and child on the way from the model to the layers of all groups."""
    needed = {slot.module for group in units for slot in group.slots}
    needed |= {group.tap.module for group in units if group.tap is not None}
    links = []
    for parent in reversed([*units.model.modules()]):  # so that children come before their parents
        for name, child in parent._modules.items():
            if child is not None and child in needed:
                links.append((parent, name, child))
                needed.add(parent)
    return links


def _idle(units: UnitMap) -> list[tuple[str, nn.Module]]:
    modules = modules_by_name(units.model)
    return [(name, modules[name]) for name in units.idle if name in modules]


def _weights(units: UnitMap) -> list[tuple[nn.Module, str, Tensor]]:
    """Return module, name and parameter of all slots, without the buffers, which a module may exchange."""
    slots = {(slot.module, slot.name) for group in units for slot in group.slots}
    found = [(module, name, module._parameters.get(name)) for module, name in slots]
    return [(module, name, parameter) for module, name, parameter in found if parameter is not None]
