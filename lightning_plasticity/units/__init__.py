"""Floor 1: which units a model has, where their numbers live, and the proof of both.

A *unit* is a hidden neuron or channel: the weight row that writes it, the entries of biases and norms on its way, and
the weight columns that read it. Units are found by what a model computes, not by the types of its layers: it runs once
on an example, and beside every number travels a *label* that says which unit the number belongs to; what happens to the
labels on the way tells which units there are. Read in this order:

1. What is found: ``slot`` (where a unit's numbers live in one tensor, written through ``writing``), ``group`` (the
   interchangeable units of one place), ``skipped`` (a layer without units, and why), ``unit_map`` (all of them;
   ``table``, ``naming``, ``patterns`` and ``binding`` print it, name it, choose from it, and tie it to a model again;
   ``links`` tells when that has exchanged a layer).
2. How it is found: ``discover`` runs the model until nothing changes, ``refusals`` names the models that cannot be
   taken apart at all; the folder ``tracing`` holds the labels, the rules by which they travel, and the verdict.
3. How it is proven, on the model itself: the folder ``proof``.
4. What both need: ``example`` says what a model is run on, ``restoring`` leaves it as it was found, ``tensors`` looks
   into what it returns, ``statistics`` holds its norms still.
"""

from lightning_plasticity.units.discover import Residual, discover_units
from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.proof.report import UnitProof, UnitProofs
from lightning_plasticity.units.proof.verify import verify_units
from lightning_plasticity.units.skipped import Skipped
from lightning_plasticity.units.slot import Slot, SlotKind
from lightning_plasticity.units.unit_map import UnitMap
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
