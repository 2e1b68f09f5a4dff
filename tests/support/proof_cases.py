"""A network whose units are written down by hand, for tests of the proof."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_plasticity.units import Slot, Tap, UnitGroup, UnitMap, verify_units


class Network(nn.Module):
    """``x -> first -> norm -> relu -> second (+ third)``: two readers, a norm, dropout, and a frozen path beside it."""

    def __init__(self, norm: nn.Module | None = None, activation=torch.relu) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6) if norm is None else norm
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Linear(6, 5)
        self.third = nn.Linear(6, 3)
        self.beside = nn.Linear(4, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.norm(self.first(x))))
        return torch.cat([self.second(hidden) + self.beside(x), self.third(hidden)], dim=-1)


def slot(model: nn.Module, path: str, dim: int = 0, features: Tensor | None = None, kind: str = "weight") -> Slot:
    module_name, _, name = path.rpartition(".")
    module = model.get_submodule(module_name)
    index = torch.arange(getattr(module, name).shape[dim])[:, None] if features is None else features
    return Slot(module, name, path, (dim,), (index,), kind=kind)


def group_of(model: Network, coupled: bool = False) -> UnitGroup:
    return UnitGroup(
        "first",
        6,
        (slot(model, "first.weight"), slot(model, "first.bias", kind="bias")),
        tuple(
            slot(model, f"norm.{name}", kind=kind)
            for name, kind in [
                ("weight", "scale"),
                ("bias", "shift"),
                ("running_mean", "mean"),
                ("running_var", "variance"),
            ]
            if name in model.norm.state_dict()
        ),
        (slot(model, "second.weight", 1), slot(model, "third.weight", 1)),
        Tap(model.second, "second", "input", 0, -1, torch.arange(6)[:, None]),
        coupled,
    )


def prove(model: nn.Module, *groups: UnitGroup, x: Tensor | None = None, **options):
    example = torch.randn(8, 4) if x is None else x
    return verify_units(model, example, UnitMap(model, groups), **options)
