"""What is public is listed, sorted, importable and documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import lightning_plasticity

ROOMS = ["lightning_plasticity"] + [
    f"lightning_plasticity.{each.name}"
    for each in pkgutil.iter_modules(lightning_plasticity.__path__)
    if each.ispkg and each.name != "avalanche"
]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_exists_is_documented_and_is_listed_in_order(room):
    module = importlib.import_module(room)
    assert module.__doc__, room
    names = list(getattr(module, "__all__", ()))
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(set(names)) == len(names)
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{room}.{name} has no docstring"
            assert thing.__module__.startswith("lightning_plasticity"), f"{room}.{name} belongs to {thing.__module__}"


def test_the_root_exports_what_a_beginner_needs():
    assert {"ContinualBackprop", "Method", "UnitReplacement", "UnitReplacer", "discover_units"} <= {
        *lightning_plasticity.__all__
    }
