"""The units of a model: what was found, what was skipped and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnknownGroupError,
    UnsupportedModelError,
    check_module,
    shortened,
)
from lightning_plasticity.units.binding import Bound
from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.naming import modules_by_name, parameter_shapes, tensor_at
from lightning_plasticity.units.patterns import Patterns, chosen_names
from lightning_plasticity.units.skipped import Skipped
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.table import aligned, skipped_lines, together


@dataclass(frozen=True, eq=False, repr=False)
class UnitMap(Bound):
    """The unit groups of a model, from input to output, and the layers that have none.

    A map points into its model. A pickle of it holds names and positions, no module and no weight; what was unpickled
    can be read (names, summary, coverage) and is made live again by :meth:`update`. ``copy.deepcopy((model, units))``
    copies both, and the copies belong together; a deep copy of the map alone brings a copy of the model along.

    Args:
        model: The model the slots point into.
        groups: The groups, in the order in which the model computes them.
        skipped: The layers that were left alone, each with its reason.
        shapes: The shape of every parameter of the model by dotted name; default: as they are now.
        idle: Dotted names of layers of which no weight was used on the example: nobody knows what they read.

    Example:
        >>> import pickle
        >>> from lightning_plasticity import discover_units
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> sent = pickle.dumps(discover_units(model, torch.randn(2, 4)))
        >>> unit_map = pickle.loads(sent).update(model)
        >>> unit_map["0"].incoming[0].tensor is model[0].weight
        True
    """

    _held: ClassVar[str] = "model"

    model: nn.Module
    groups: tuple[UnitGroup, ...]
    skipped: tuple[Skipped, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Note which parameters the model has, so that :meth:`update` knows what is new."""
        if not self.shapes:
            object.__setattr__(self, "shapes", parameter_shapes(self.model))

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> UnitGroup:
        for group in self.groups:
            if group.name == name:
                return group
        groups = f"groups have names: {shortened([group.name for group in self.groups])}"
        raise UnknownGroupError(
            f"units[{name!r}], which is the name of no group",
            groups if self.groups else "a map with a group of this name; this one has none",
            "Take one of these, `for group in units`, or `units.groups[0]` for the first"
            if self.groups
            else "Print `units.summary()`, which says why every layer was left alone",
        )

    def __contains__(self, name: object) -> bool:
        """Return whether there is a group of this name, or this group."""
        return any(name == group.name or name is group for group in self.groups)

    @property
    def coverage(self) -> float:
        """The share of the entries of the model's parameters that belong to some unit, in ``[0, 1]``.

        An entry belongs to a unit if it is in one of its slots: it writes the unit, scales or shifts it, or reads it.
        It counts once, also if it reads one unit and writes another; a shared parameter counts once; buffers do not
        count. What is left is what no hidden unit owns, such as the bias of the output. 0 without parameters.
        """
        slots: dict[str, list[Slot]] = {}
        for slot in (slot for group in self.groups for slot in group.slots if slot.path in self.shapes):
            slots.setdefault(slot.path, []).append(slot)
        total = sum(math.prod(shape) for shape in self.shapes.values())
        return sum(map(_owned_entries, slots.values())) / total if total else 0.0

    def check_bound(self) -> None:
        """Refuse a map that points into no model, or into layers or weights that its model no longer has.

        Raises:
            StateMismatchError: If the map was unpickled and not bound yet, or a layer was exchanged, or a weight is
                computed by now (by pruning or a parametrization).
        """
        modules = set(self.model.modules())
        slots = [slot for group in self.groups for slot in group.slots]
        gone = {slot.path for slot in slots if slot.module not in modules or not slot.is_there}
        taps = [group.tap for group in self.groups if group.tap is not None]
        gone = gone or {tap.path for tap in taps if tap.module not in modules}
        if gone:
            if [*self.model.parameters()]:  # none if it was unpickled
                self._check_fits(modules_by_name(self.model))
            raise StateMismatchError(
                f"units that point to {sorted(gone)}, which is no longer part of the model",
                "units of the model as it is",
                "Bind them again: `units = units.update(model)`, and build what uses them anew",
            )

    def update(self, model: nn.Module) -> UnitMap:
        """Return the same groups, under the same names, bound to ``model``, which nothing is run on.

        For a map that was unpickled, for a copy of the model, and for a model in which a layer was exchanged or a head
        grew: slots find their tensors by name, and a tensor may have changed in dimensions that count no units of this
        map. How the layers are connected is taken to be the same; :func:`~lightning_plasticity.units.verify_units`
        tells whether it is.

        Args:
            model: The model, in any wrapper.

        Returns:
            A new map; this one is left as it is.

        Raises:
            InvalidArgumentError: If ``model`` is none.
            StateMismatchError: If a layer of a group is gone or no longer fits, or if there are layers of which the map
                does not know what they read.
        """
        check_module(model)
        modules, shapes = modules_by_name(model), parameter_shapes(model)
        self._check_fits(modules, [path for path in shapes if path not in self.shapes])
        groups = tuple(group.bound_to(modules) for group in self.groups)
        return UnitMap(model, groups, self.skipped, shapes, self.idle)

    def _check_fits(self, modules: Mapping[str, nn.Module], added: Sequence[str] = ()) -> None:
        problems = [problem for group in self.groups for problem in _misfits(group, modules)]
        problems += [f"{path!r} is new, and may read or write units" for path in added]
        if problems:
            raise StateMismatchError(
                f"a model that the unit map does not fit: {'; '.join(dict.fromkeys(problems))}",
                "the layers in which the units were found, each with as many units as then",
                "Run `discover_units(model, example_inputs)` again: groups that are still there keep their names",
            )

    def select(self, include: Patterns = None, exclude: Patterns = None) -> UnitMap:
        """Return the map restricted to groups whose name matches.

        Args:
            include: Patterns with ``*`` and ``?`` as in file names, such as ``"encoder.*"``; None includes all.
            exclude: Patterns of groups to leave out; they win over ``include``. A single pattern need not be in a list.

        Returns:
            A map with the chosen groups; the others are listed in ``skipped``.

        Raises:
            InvalidArgumentError: If a pattern matches no group, or nothing is left.
        """
        names, reasons = [group.name for group in self.groups], {each.layer: each.reason for each in self.skipped}
        chosen = set(chosen_names(names, include, exclude, "unit group", reasons))
        left_out = [Skipped(g.name, "left out by include / exclude") for g in self.groups if g.name not in chosen]
        kept = tuple(group for group in self.groups if group.name in chosen)
        return replace(self, groups=kept, skipped=self.skipped + tuple(left_out))

    def summary(self) -> str:
        """Return a table for people: one line per group, one with the totals, then why the other layers are left alone.

        Returns:
            The table as text, without a trailing newline. Marks: *coupled*, a norm mixes the units; *residual*, they
            are a residual stream; *not observed*, no module takes or returns their activation, so that only utilities
            of weights apply to them.
        """
        rows = [("group", "units", "written by", "read by", "")]
        for g in self.groups:
            marks = {"coupled": g.coupled, "residual": g.residual, "not observed": g.tap is None}
            shown = ", ".join(mark for mark, is_set in marks.items() if is_set)
            rows.append((g.name, str(g.size), _layers(g.incoming), _layers(g.outgoing), shown))
        units = sum(group.size for group in self.groups)
        total = f"{len(self)} group{'s' * (len(self) != 1)}, {units} units, {self.coverage:.1%} of all weights"
        return "\n".join([*aligned(rows), total, *skipped_lines(self.skipped)])

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        units = sum(group.size for group in self.groups)
        return f"{type(self).__name__}({len(self)} groups, {units} units, {len(self.skipped)} skipped)"


def checked_groups(units: object, otherwise: str = "") -> tuple[UnitGroup, ...]:
    """Return the groups that somebody has passed as units.

    Args:
        units: A map, or some of its groups.
        otherwise: What the user may also do if there are none; ends the message.

    Raises:
        InvalidArgumentError: If it is something else, a model, say, or an empty sequence.
        StateMismatchError: If a map was unpickled and not bound again, or a layer of it was exchanged.
        UnsupportedModelError: If the map of a model has no group; the reason of every layer is named.
    """
    if isinstance(units, UnitMap):
        units.check_bound()
        if not units.groups:
            raise UnsupportedModelError(
                f"no hidden units in {type(units.model).__name__}:\n{units.summary()}",
                "a model with at least one hidden layer whose units are written and read by weights",
                "Check the reasons above; if the example is not typical, find the units with another one "
                f"(`example_input=` of callbacks and plugins){otherwise}",
            )
        return units.groups
    if not (isinstance(units, Sequence) and units and all(isinstance(each, UnitGroup) for each in units)):
        raise InvalidArgumentError(
            f"units={units!r}" if isinstance(units, Sequence) else f"units of type {type(units).__name__}",
            "a UnitMap, or a sequence of its groups",
            "Find them with `discover_units(model, example_inputs)`",
        )
    return tuple(units)


def _owned_entries(slots: Sequence[Slot]) -> int:
    """Return how many entries of one tensor some unit owns; all ``slots`` lie in it."""
    owned = torch.zeros(slots[0].found_in, dtype=torch.bool, device="cpu")
    for slot in slots:
        slot.assign(torch.arange(slot.size, device="cpu"), 1.0, tensor=owned)
    return int(owned.sum())


def _misfits(group: UnitGroup, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield what keeps a group from being bound to these modules, one sentence each."""
    if group.tap is not None and group.tap.path not in modules:
        yield f"{group.tap.path!r} is gone"
    for slot in group.slots:
        tensor = tensor_at(modules, slot.path)
        if tensor is None:
            yield f"{slot.path!r} is gone"
        elif not slot.fits(tensor):
            was, now = (list(shape) for shape in (slot.found_in, tensor.shape))
            yield f"{slot.path!r} has shape {now}, but the {group.size} units of {group.name!r} were found in {was}"


def _layers(slots: Sequence[Slot]) -> str:
    """Return the layers of some slots for people: at most two names."""
    first, *more = together(slot.path.rpartition(".")[0] or slot.path for slot in slots)
    return f"{first} and {len(more)} more" if len(more) > 1 else ", ".join([first, *more])


torch.serialization.add_safe_globals([UnitMap, UnitGroup, Slot, Tap, Skipped])  # names and positions
