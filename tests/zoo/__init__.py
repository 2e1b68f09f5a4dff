"""A zoo of small models that are hard to take apart: name to factory, and what must be found in each.

``ZOO[name]()`` returns a model with random weights and inputs in one of the forms that ``discover_units`` takes.
``FAST`` names those that take milliseconds.
"""

from zoo.catalogue import FAST, ZOO, expected_groups, make, run
from zoo.registry import SPECIMENS, Specimen

__all__ = ["FAST", "SPECIMENS", "ZOO", "Specimen", "expected_groups", "make", "run"]
