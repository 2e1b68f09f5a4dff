"""Let the entries of replaced units move as in a newly built Adam.

Adam divides its moments by ``1 - beta ** step``, with one step for the whole parameter. An entry whose moments were
just set to 0 would be corrected for an age it does not have: with the usual betas its first updates are three to six
times those of a fresh Adam. Setting the step to 0 instead would shrink the updates of all its neighbours.

Here the step stays and the *result* is corrected: after the optimizer's step, the difference between the update for the
entry's own age and the one that was applied is added to the weight. Both follow from the moments, so nothing else has
to be remembered than the step at which an entry was born. After ``HORIZON`` steps the moments are rescaled once, so
that from then on the shared step is right for them. All other entries are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.units import Slot, UnitGroup

HORIZON = 100
"""Steps during which a young entry is corrected; by then the bias correction of the first moment has long run out."""

Direction = Callable[[dict[str, Tensor], Tensor, dict[str, Any]], Tensor]


def _adam(state: dict[str, Tensor], step: Tensor, options: dict[str, Any]) -> Tensor:
    """Adam's update without the learning rate, for entries of age ``step``."""
    beta1, beta2 = options["betas"]
    second = state["max_exp_avg_sq"] if options["amsgrad"] else state["exp_avg_sq"]
    update: Tensor = state["exp_avg"] / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + options["eps"])
    return update


def _adamax(state: dict[str, Tensor], step: Tensor, options: dict[str, Any]) -> Tensor:
    """Adamax's update without the learning rate, for entries of age ``step``."""
    update: Tensor = state["exp_avg"] / (1 - options["betas"][0] ** step) / state["exp_inf"]
    return update


_DIRECTIONS: dict[type[Optimizer], Direction] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.Adamax: _adamax,
}
_MOMENTS = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}  # which beta corrects which moment


@dataclass
class _Young:
    """The young units of one group: how long they have been corrected, and the optimizer's step when they were born."""

    group: UnitGroup
    units: Tensor
    waited: Tensor
    born: dict[int, Tensor] = field(default_factory=dict)  # by position of the slot, [U], on the device of the step


class YoungEntries:
    """Corrects the updates of young entries of one optimizer.

    Optimizers without a bias correction need none; for those with one that is not known here (NAdam, RAdam, third
    parties) the entries move as their moments of 0 make them.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._direction = next((f for kind, f in _DIRECTIONS.items() if isinstance(optimizer, kind)), None)
        self._young: dict[str, _Young] = {}
        self._last: dict[int, Tensor] = {}  # the step of a parameter when it was last looked at, by its identity

    def add(self, group: UnitGroup, units: Tensor) -> None:
        """Remember that ``units`` (``[R]``) of ``group`` were born at this step."""
        if self._direction is None:
            return
        young = self._young.setdefault(group.name, _Young(group, units[:0], units[:0]))
        keep = ~torch.isin(young.units, units)
        young.units = torch.cat([young.units[keep], units])
        young.waited = torch.cat([young.waited[keep], torch.zeros_like(units)])
        for position, slot, state in self._slots(group):
            step = state["step"]
            born = young.born.setdefault(position, torch.full((group.size,), -1.0, device=step.device))
            born[units.to(step.device)] = step.to(born.dtype)
            self._last[id(slot.tensor)] = step.clone()

    @torch.no_grad()
    def correct(self) -> None:
        """Correct the update that the optimizer has just made; no-op while no unit is young."""
        young = [each for each in self._young.values() if len(each.units)]
        if not young:
            return
        corrected = [
            (slot, each.units, self._corrected(each, at, slot, state))
            for each in young
            for at, slot, state in self._slots(each.group)
        ]
        for slot, units, values in corrected:  # all were computed from untouched weights: two slots may share an entry
            slot.assign(units, values)
        for each in young:
            each.waited += 1
            grown = each.units[each.waited >= HORIZON]
            if len(grown):
                self._hand_over(each, grown)
        for each in young:
            for _, slot, state in self._slots(each.group):
                self._last[id(slot.tensor)] = state["step"].clone()

    def _corrected(self, young: _Young, position: int, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        """The weights of the young entries after the update that suits their own age."""
        assert self._direction is not None  # noqa: S101 - there are young units only for known optimizers
        options, units = self._options(slot), young.units
        weights = slot.gather(units)
        moments = {k: slot.view(v)[slot.at(units, v.device)] for k, v in state.items() if v.shape == slot.tensor.shape}
        step = state["step"].to(weights.device, torch.float64)
        age = self._age(young, position, slot, units, weights, step)
        moved = (state["step"] != self._last[id(slot.tensor)]).to(weights.device) & (age > 0)
        wanted = self._direction(moments, age.clamp_min(1), options)
        applied = self._direction(moments, step, options)
        change = torch.where(moved & (age < step), (applied - wanted) * options["lr"], 0.0)
        return torch.where(change.isfinite(), weights + change, weights)

    def _age(self, young: _Young, position: int, slot: Slot, units: Tensor, like: Tensor, step: Tensor) -> Tensor:
        """Updates of every entry since its birth, ``[R, K, *E]``; an entry is as young as the younger of its owners."""
        device = like.device
        born = young.born[position].to(device)[units.to(device)].view(-1, *[1] * (like.ndim - 1))
        if len(slot.dims) == 1:
            for other, births in self._other_births(slot, device):
                axis = other.dims[0] + (2 if other.dims[0] < slot.dims[0] else 1)
                born = torch.maximum(born, births.view([-1 if at == axis else 1 for at in range(like.ndim)]))
        return step - born.double()

    def _other_births(self, slot: Slot, device: torch.device) -> Iterator[tuple[Slot, Tensor]]:
        """Births along the other dimension of the slot's tensor: rows written by one group, columns read by another."""
        tensor = slot.tensor
        shape = slot.shape or tensor.shape
        for young in self._young.values():
            for position, other, _ in self._slots(young.group):
                same = other.tensor is tensor and other.shape == slot.shape and len(other.dims) == 1
                if same and other.dims != slot.dims and position in young.born:
                    births = torch.full((shape[other.dims[0]],), -1.0, device=device)
                    births[other.tables(device)[0]] = young.born[position].to(device)[:, None]
                    yield other, births

    def _hand_over(self, young: _Young, grown: Tensor) -> None:
        """Rescale the moments of grown units so that the shared step is right for them, and let them go."""
        for position, slot, state in self._slots(young.group):
            betas = self._options(slot)["betas"]
            weights = slot.gather(grown)
            step = state["step"].to(weights.device, torch.float64)
            age = self._age(young, position, slot, grown, weights, step).clamp_min(1)
            for name, which in _MOMENTS.items():
                if name in state and not (name == "exp_avg_sq" and "exp_inf" in state):
                    moment = slot.view(state[name])[slot.at(grown, weights.device)]
                    slot.assign(
                        grown, moment * (1 - betas[which] ** step) / (1 - betas[which] ** age), tensor=state[name]
                    )
            young.born[position][grown.to(young.born[position].device)] = -1.0
        left = ~torch.isin(young.units, grown)
        young.units, young.waited = young.units[left], young.waited[left]

    def _slots(self, group: UnitGroup) -> Iterator[tuple[int, Slot, dict[str, Tensor]]]:
        """The slots of a group in tensors that this optimizer has stepped, with its memory of the tensor."""
        for position, slot in enumerate(group.slots):
            state = self.optimizer.state.get(slot.tensor)
            if state and isinstance(state.get("step"), Tensor):
                yield position, slot, state

    def _options(self, slot: Slot) -> dict[str, Any]:
        tensor = slot.tensor
        return next(g for g in self.optimizer.param_groups if any(tensor is p for p in g["params"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the young units and their births, by group name."""
        return {
            name: {
                "units": y.units.clone(),
                "waited": y.waited.clone(),
                "born": {k: v.clone() for k, v in y.born.items()},
            }
            for name, y in self._young.items()
            if len(y.units)
        }

    def load_state_dict(self, state: dict[str, Any], groups: tuple[UnitGroup, ...]) -> None:
        """Take over a state returned by :meth:`state_dict`; the optimizer's own state must have been restored."""
        by_name = {group.name: group for group in groups}
        self._young = {
            name: _Young(by_name[name], y["units"].cpu(), y["waited"].cpu(), dict(y["born"]))
            for name, y in state.items()
        }
        for young in self._young.values():
            for _, slot, memory in self._slots(young.group):
                self._last[id(slot.tensor)] = memory["step"].clone()
