"""Every number of a public constructor refuses what is no number, by name and in three parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from lightning_plasticity import callbacks, methods, optim, replacement
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.optim.regularization import Decay, ShrinkPerturb

LAYER = nn.Linear(3, 2)
GIVEN = {  # arguments without a default
    "params": list(LAYER.parameters()),
    "model": LAYER,
    "loss": nn.MSELoss(),
    "optimizer": torch.optim.SGD(LAYER.parameters(), lr=0.1),
    "strength": 1.0,
    "threshold": 0.1,
    "include": ["*"],
}
NUMBER = re.compile(r"\b(float|int)\b")


def constructors() -> Iterator[tuple[str, Callable[..., object]]]:
    """What the public folders export and what can be built from ``GIVEN``."""
    for room in (callbacks, methods, optim, replacement):
        for name in room.__all__:
            each = getattr(room, name)
            is_built = inspect.isfunction(each) if room is methods else inspect.isclass(each)
            if is_built and not inspect.isabstract(each) and not getattr(each, "_is_protocol", False):
                yield name, each
    yield from (("Decay", Decay), ("ShrinkPerturb", ShrinkPerturb))


def numbers() -> Iterator[tuple[str, Callable[..., object], str, dict[str, object]]]:
    for name, each in constructors():
        parameters = inspect.signature(each).parameters
        needed = [key for key, value in parameters.items() if value.default is value.empty]
        if set(needed) <= GIVEN.keys():
            for key, value in parameters.items():
                if NUMBER.search(str(value.annotation)) and "tuple" not in str(value.annotation):
                    yield name, each, key, {key: GIVEN[key] for key in needed}


CASES = {f"{name}-{key}": (each, key, given) for name, each, key, given in numbers()}


def test_the_table_is_not_empty():
    names = {case.partition("-")[0] for case in CASES}
    assert {"UPGD", "AdaUPGD", "UtilityGate", "ContinualBackprop", "continual_backprop", "UPGDPerturbation"} <= names
    assert {"LowestMature", "PlasticityMonitor", "ShrinkAndPerturb", "Decay", "self_normalized_resets"} <= names
    assert len(CASES) > 70


@pytest.mark.parametrize("value", ["0.1", True, [0.1]])
@pytest.mark.parametrize(("build", "key", "given"), CASES.values(), ids=CASES)
def test_what_is_no_number_is_refused(build, key, given, value):
    with pytest.raises(InvalidArgumentError) as refusal:
        build(**given | {key: value})
    assert refusal.value.found.endswith(f"={value!r}")
    assert "number" in refusal.value.expected
    assert refusal.value.remedy
