"""What points into a model: a copy points into the copy of the model; a pickle keeps names and forgets the model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from lightning_plasticity.errors import StateMismatchError


class Bound:
    """Base of everything that addresses a part of a model by name and holds that part.

    ``copy.deepcopy`` of a model together with what points into it (in one call, or as its attribute) gives a copy that
    points into the copied model. A pickle holds no module and no weight; what was unpickled points nowhere and says so
    when it is used, until :meth:`~lightning_plasticity.units.UnitMap.update` binds it to a model.
    """

    _held: ClassVar[str]
    """The attribute that holds the part of the model."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != self._held}

    if not TYPE_CHECKING:  # a type checker would take it for a promise that every attribute exists

        def __getattr__(self, name: str) -> Any:
            if name == self._held:
                raise StateMismatchError(
                    f"{self!r}, which was unpickled and points into no model",
                    "units that are bound to a model",
                    "Bind the whole map: `units = units.update(model)`",
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return twin
