"""Laws that every method of unit replacement obeys, on any model, with any optimizer; for tests of your own methods.

Each law is a function that returns nothing or raises :class:`AssertionError` with what was found. They need no test
framework::

    def test_my_method_obeys_the_laws():
        check_method(my_method())

A law that has no general form is not here: that a method replaces the units its paper says. Compare it with a slow loop
written from the equations; the ``events`` of the engine list what was replaced when.
"""

from lightning_plasticity.testing.laws import (
    check_address,
    check_amnesia,
    check_evaluation,
    check_idle,
    check_method,
    check_no_trace,
    check_plain_data,
    check_resume,
    check_roads,
    check_silent_replacement,
)
from lightning_plasticity.testing.runs import MakeModel, MakeOptimizer, same_state

__all__ = [
    "MakeModel",
    "MakeOptimizer",
    "check_address",
    "check_amnesia",
    "check_evaluation",
    "check_idle",
    "check_method",
    "check_no_trace",
    "check_plain_data",
    "check_resume",
    "check_roads",
    "check_silent_replacement",
    "same_state",
]
