"""Let the entries of replaced units move as in a newly built optimizer.

Adam divides its moments by ``1 - beta ** step``, with one step for the whole parameter. An entry whose moments were
just set to 0 would be corrected for an age it does not have: with the usual betas its first updates are three to six
times those of a fresh Adam. Setting the step to 0 instead would shrink the updates of all its neighbours.

Here the step stays and the *result* is corrected: after the optimizer's step, the difference between the update for the
entry's own age and the one that was applied is added to the weight. Both follow from the moments, so nothing has to be
remembered but which entries are young and since when. After ``HORIZON`` updates the moments are rescaled once, so that
from then on the shared step is right for them. All other entries are never touched.

Letters: ``M`` young entries of one parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.replacement.memory import precise
from lightning_plasticity.replacement.optimizer.young_rules import HORIZON, Moments, rule_of
from lightning_plasticity.units import UnitGroup, write


@dataclass(eq=False)
class _Young:
    """The young entries of one parameter.

    Positions and births are kept on the host, where it is decided who is young; ``index`` and ``births`` are their
    copies on the device, made when the set changes and not at every step.
    """

    parameter: Tensor
    positions: Tensor  # in the flattened parameter, [M]
    born: Tensor  # count of updates at birth, [M]
    updates: int = 0  # of the parameter, since its first young entry
    index: tuple[Tensor, ...] = ()
    births: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    previous: Tensor | None = None  # first moment after the last step, [M]

    def keep(self, chosen: Tensor) -> None:
        """Restrict the set to the entries where ``chosen`` (``[M]``, host) is true."""
        self.positions, self.born = self.positions[chosen], self.born[chosen]

    def to_device(self) -> None:
        """Copy positions and births to the device of the parameter."""
        device = self.parameter.device
        index = torch.unravel_index(self.positions, self.parameter.shape)
        self.index = tuple(each.to(device) for each in index)
        self.births = self.born.to(device, precise(device))

    @property
    def age(self) -> Tensor:
        """Updates since birth, ``[M]``."""
        return self.updates - self.births


class YoungEntries:
    """Corrects the updates of young entries of one optimizer.

    Optimizers without a bias correction need none. For third-party ones, whose correction is not known, the entries
    move as their moments of 0 make them.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._rule = rule_of(optimizer)
        self._young: dict[str, _Young] = {}  # by dotted name of the parameter

    def __bool__(self) -> bool:
        """Whether any entry is young."""
        return bool(self._young)

    def add(self, group: UnitGroup, units: Tensor) -> None:
        """Remember that ``units`` (``[R]``) of ``group`` were born at this step."""
        if self._rule is None:
            return
        changed = {}
        for slot in group.slots:
            parameter = slot.tensor
            if not self.optimizer.state.get(parameter):
                continue  # never stepped: all of its entries are young together
            empty = torch.empty(0, dtype=torch.int64, device="cpu")
            young = self._of(parameter) or self._young.setdefault(slot.path, _Young(parameter, empty, empty))
            positions = slot.positions(units)
            young.keep(~torch.isin(young.positions, positions))
            young.positions = torch.cat([young.positions, positions])
            young.born = torch.cat([young.born, torch.full_like(positions, young.updates)])
            changed[slot.path] = young
        self._refresh(changed.values())

    @torch.no_grad()
    def correct(self) -> None:
        """Correct the update that the optimizer has just made."""
        by_parameter = {young.parameter: young for young in self._young.values()}
        for options in self.optimizer.param_groups:
            moved = [
                by_parameter[parameter]
                for parameter in options["params"]
                if parameter in by_parameter and parameter.grad is not None
            ]
            if moved:
                self._correct(moved, options)
        self._release()

    def _correct(self, moved: Sequence[_Young], options: dict[str, Any]) -> None:
        """Correct the young entries of some parameters that share their options, all at once."""
        assert self._rule is not None  # noqa: S101 - there are young entries only under a rule
        for young in moved:
            young.updates += 1
        age = torch.cat([young.age for young in moved])
        step = torch.cat([self._scalar(young, "step").expand(len(young.births)) for young in moved])
        moments = self._moments(moved)
        wanted, applied = self._rule.directions(moments, age, step, options)
        change = torch.where(age < step, (applied - wanted) * options["lr"], 0.0)
        change = torch.where(change.isfinite(), change, 0.0)
        for young, part in zip(moved, torch.split(change, [len(young.births) for young in moved]), strict=True):
            write(young.parameter, young.index, young.parameter[young.index] + part)
        if self._rule.needs_previous:
            self._remember(moved)

    def _release(self) -> None:
        """Hand entries over to the shared step when they are grown, and let parameters without young entries go."""
        for path, young in list(self._young.items()):
            grown = young.updates - young.born >= HORIZON
            if grown.any():
                self._hand_over(young, grown.to(young.parameter.device))
                young.keep(~grown)
                self._refresh([young])
            if not len(young.positions):
                del self._young[path]

    def _hand_over(self, young: _Young, grown: Tensor) -> None:
        """Rescale the moments of grown entries so that the shared step is right for them."""
        assert self._rule is not None  # noqa: S101 - there are young entries only under a rule
        options, index = self._options(young.parameter), tuple(each[grown] for each in young.index)
        step, age = self._scalar(young, "step"), young.age[grown]
        state = self.optimizer.state[young.parameter]
        for name, (now, then) in self._rule.shares(age, step, options).items():
            if name in state:
                moment = state[name][index].to(age.dtype)
                write(state[name], index, moment * torch.where(age < step, then / now, 1.0))

    def _moments(self, moved: Sequence[_Young]) -> Moments:
        """What the optimizer remembers of the young entries of some parameters, behind each other."""
        assert self._rule is not None  # noqa: S101 - there are young entries only under a rule
        states = [self.optimizer.state[young.parameter] for young in moved]
        moments: Moments = {}
        for name in self._rule.moments:
            if name in states[0]:
                parts = [state[name][young.index] for state, young in zip(states, moved, strict=True)]
                moments[name] = torch.cat(parts).to(moved[0].births.dtype)
        for name in self._rule.scalars:
            parts = [self._scalar(young, name).expand(len(young.births)) for young in moved]
            moments[name] = torch.cat(parts)
        if self._rule.needs_previous:
            moments["previous"] = torch.cat([young.previous for young in moved if young.previous is not None])
        return moments

    def _remember(self, changed: Iterable[_Young]) -> None:
        for young in changed:
            young.previous = self.optimizer.state[young.parameter]["exp_avg"][young.index].to(young.births.dtype)

    def _refresh(self, changed: Iterable[_Young]) -> None:
        for young in changed:
            young.to_device()
            if self._rule is not None and self._rule.needs_previous:
                self._remember([young])

    def _of(self, parameter: Tensor) -> _Young | None:
        """A parameter may be addressed under several names; its young entries are kept under the first."""
        return next((young for young in self._young.values() if young.parameter is parameter), None)

    def _scalar(self, young: _Young, name: str) -> Tensor:
        """A number that the optimizer keeps per parameter, on the device of the parameter."""
        value: Tensor = self.optimizer.state[young.parameter][name]
        if value.is_cpu:  # a copy to another device would wait for it, a fill does not
            return young.births.new_full((), value.item())
        return value.to(young.births)

    def _options(self, parameter: Tensor) -> dict[str, Any]:
        return next(g for g in self.optimizer.param_groups if any(parameter is p for p in g["params"]))

    def state_dict(self) -> dict[str, Any]:
        """Return which entries are young and since when, as plain tensors by name of the parameter."""
        return {
            path: {
                "positions": y.positions.clone(),
                "born": y.born.clone(),
                "updates": torch.tensor(y.updates, device="cpu"),
            }
            for path, y in self._young.items()
        }

    def load_state_dict(self, state: dict[str, Any], groups: Iterable[UnitGroup]) -> None:
        """Take over a state returned by :meth:`state_dict`; the optimizer's own state must have been restored.

        Args:
            state: The state; its tensors may lie on any device.
            groups: The groups whose slots hold the parameters.
        """
        parameters = {slot.path: slot.tensor for group in groups for slot in group.slots}
        self._young = {
            path: _Young(parameters[path], y["positions"].cpu().clone(), y["born"].cpu().clone(), int(y["updates"]))
            for path, y in state.items()
            if path in parameters and self.optimizer.state.get(parameters[path])
        }
        self._refresh(self._young.values())
