"""Let a gate go on with what a model and its optimizer have become, as when a head has grown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from lightning_plasticity.optim.gate import UtilityGate
from lightning_plasticity.units import UnitGroup, UnitMap


def choose_anew(
    gate: UtilityGate,
    optimizer: Optimizer,
    units: UnitMap | Sequence[UnitGroup] | None,
    parameters: Iterable[Tensor] | None,
) -> None:
    """Gate what is there now; nothing of what was chosen before may be left. The gate is detached.

    Args:
        gate: The gate; utilities and clocks of what stays go on.
        optimizer: The optimizer as it is now.
        units: The units, for a gate with one utility per unit; else None or empty.
        parameters: The parameters, for a gate with one utility per weight; None gates all of the optimizer.

    Raises:
        InvalidArgumentError: If the optimizer has nothing of it.
    """
    if units:
        gate.regroup(units)
        gate.rebind(optimizer)
    else:
        gate.choose(None)
        gate.rebind(optimizer)
        gate.choose(parameters)
