"""Floor 1: which units a model has, where their numbers live, and the proof of both.

A *unit* is a hidden neuron or channel: the weight row that writes it, the entries of biases and norms on its way, and
the weight columns that read it. Nothing here knows any layer type. The model runs once on an example, and beside every
number travels a *label* that says which unit the number belongs to; what happens to the labels on the way tells which
units there are. Read the files in this order:

1. What is found: ``slot`` (where a unit's numbers live in one tensor, written through ``writing``), ``group`` (the
   interchangeable units of one place), ``unit_map`` (all groups, and the layers left out; ``table``, ``naming`` and
   ``binding`` print it, name it, and tie it to a model again).
2. Labels: ``labels`` (what a label is, and which are one unit), ``meeting`` (two labels meet in an element-wise
   operation), ``columns`` (many labels meet in a reduction or in a weight column).
3. Where labels are kept: ``shadow`` (beside the model's memory), ``sources`` (parameters and buffers, and the labels of
   their rows and entries), ``frames`` (which module is running), ``tape`` (how weights were computed from parameters),
   ``memory`` (what the first run concluded), and all of them together: ``execution``.
4. The run: ``trace`` follows every operation of the model; ``rules`` says what each class of operations does to
   labels; ``computed`` gives the rows and columns of computed weights back to the parameters they were computed from.
5. The result: ``discover`` runs the model until nothing changes, ``verdict`` turns labels into groups, ``reasons`` says
   why the others are none, ``refusals`` names the models that cannot be taken apart at all.
6. The proof, which shares nothing with discovery but the slots: ``laws`` (what holds of a unit), ``statistics`` (norms
   held still), ``comparison`` (what counts as a change), ``sandbox`` (a copy of the numbers to experiment with), and
   ``verify``. ``restoring`` leaves the model as it was found in both.
"""

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
