"""Every number and every flag of a public constructor refuses what is none, by name and in three parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_plasticity import callbacks, discover_units, methods, metrics, optim, replacement, streams
from lightning_plasticity.errors import InvalidArgumentError

LAYER = nn.Linear(3, 2)
GIVEN = {  # arguments without a default
    "params": list(LAYER.parameters()),
    "model": LAYER,
    "loss": nn.MSELoss(),
    "optimizer": torch.optim.SGD(LAYER.parameters(), lr=0.1),
    "strength": 1.0,
    "threshold": 0.1,
    "include": ["*"],
    "example_inputs": torch.ones(2, 3),
    "experiences": [TensorDataset(torch.ones(2, 3))],
    "dataset": TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])),
    "num_experiences": 2,
    "classes_per_experience": 1,
}
NUMBER = re.compile(r"\b(float|int)\b")
SEVERAL = re.compile(r"tuple|Sequence")
FLAG = re.compile(r"\bbool\b")


def constructors() -> Iterator[tuple[str, Callable[..., object]]]:
    """What the public folders export and what can be built from ``GIVEN``."""
    for room in (callbacks, methods, metrics, optim, replacement, streams):
        for name in room.__all__:
            each = getattr(room, name)
            is_built = inspect.isfunction(each) if room is methods else inspect.isclass(each)
            if is_built and not inspect.isabstract(each) and not getattr(each, "_is_protocol", False):
                yield name, each
    yield "discover_units", discover_units


def arguments(kind: re.Pattern[str]) -> Iterator[tuple[str, Callable[..., object], str, dict[str, object]]]:
    for name, each in constructors():
        parameters = inspect.signature(each).parameters
        plain = {key: value for key, value in parameters.items() if value.kind is not value.VAR_KEYWORD}
        needed = [key for key, value in plain.items() if value.default is value.empty]
        if set(needed) <= GIVEN.keys():
            for key, value in plain.items():
                if kind.search(str(value.annotation)) and not SEVERAL.search(str(value.annotation)):
                    yield name, each, key, {key: GIVEN[key] for key in needed}


CASES = {f"{name}-{key}": (each, key, given) for name, each, key, given in arguments(NUMBER)}
FLAGS = {f"{name}-{key}": (each, key, given) for name, each, key, given in arguments(FLAG)}


def test_the_table_is_not_empty():
    names = {case.partition("-")[0] for case in CASES}
    assert {"UPGD", "AdaUPGD", "UtilityGate", "ContinualBackprop", "continual_backprop", "UPGDPerturbation"} <= names
    assert {"LowestMature", "PlasticityMonitor", "ShrinkAndPerturb", "Decay", "self_normalized_resets"} <= names
    assert len(CASES) > 70
    assert {"UPGD-foreach", "discover_units-through_norms", "PlasticityMonitor-epoch_ends"} <= FLAGS.keys()
    assert {"UtilityGate-protecting", "StableRank-centered", "StreamDataModule-preload"} <= FLAGS.keys()
    assert len(FLAGS) > 30


@pytest.mark.parametrize("value", ["0.1", True, [0.1]])
@pytest.mark.parametrize(("build", "key", "given"), CASES.values(), ids=CASES)
def test_what_is_no_number_is_refused(build, key, given, value):
    with pytest.raises(InvalidArgumentError) as refusal:
        build(**given | {key: value})
    assert refusal.value.found.endswith(f"={value!r}")
    assert "number" in refusal.value.expected
    assert refusal.value.remedy


@pytest.mark.parametrize("value", ["no", 2, [True]])
@pytest.mark.parametrize(("build", "key", "given"), FLAGS.values(), ids=FLAGS)
def test_what_is_no_flag_is_refused(build, key, given, value):
    with pytest.raises(InvalidArgumentError) as refusal:
        build(**given | {key: value})
    assert refusal.value.found == f"{key}={value!r}"
    assert "True" in refusal.value.expected
    assert refusal.value.remedy == f"Correct `{key}`"
