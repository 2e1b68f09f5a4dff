"""Floor 1: which units a model has, where their numbers live, and the proof of both."""

from lightning_plasticity.units.discover import Residual, discover_units
from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.slot import Slot, SlotKind
from lightning_plasticity.units.unit_map import Skipped, UnitMap
from lightning_plasticity.units.verify import UnitProof, UnitProofs, verify_units
from lightning_plasticity.units.writing import write

__all__ = [
    "Residual",
    "Skipped",
    "Slot",
    "SlotKind",
    "Tap",
    "UnitGroup",
    "UnitMap",
    "UnitProof",
    "UnitProofs",
    "discover_units",
    "verify_units",
    "write",
]
