"""Floor 2: the engine that replaces units, and the parts that methods are made of."""

from lightning_plasticity.replacement.edits import (
    CloneBest,
    Edit,
    RedrawIncoming,
    Replacement,
    ResetNorms,
    RewindIncoming,
    ZeroOutgoing,
)
from lightning_plasticity.replacement.events import Listener, ReplacementEvent
from lightning_plasticity.replacement.memory import Field, Memory
from lightning_plasticity.replacement.method import Method
from lightning_plasticity.replacement.replacer import UnitReplacer
from lightning_plasticity.replacement.selection import LowestMature, Selection
from lightning_plasticity.replacement.utility import Contribution, Utility
from lightning_plasticity.replacement.watch import Reading

__all__ = [
    "CloneBest",
    "Contribution",
    "Edit",
    "Field",
    "Listener",
    "LowestMature",
    "Memory",
    "Method",
    "Reading",
    "RedrawIncoming",
    "Replacement",
    "ReplacementEvent",
    "ResetNorms",
    "RewindIncoming",
    "Selection",
    "UnitReplacer",
    "Utility",
    "ZeroOutgoing",
]
