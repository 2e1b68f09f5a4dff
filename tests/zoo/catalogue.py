"""All models of the zoo by name, and how to make, run and read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo import adapters, attention, chains, families, oddities, pretrained, vision
from zoo.registry import SPECIMENS

ZOO: dict[str, Callable[[], tuple[nn.Module, Any]]] = {name: specimen.make for name, specimen in SPECIMENS.items()}
FAST: tuple[str, ...] = tuple(name for name, specimen in SPECIMENS.items() if not specimen.slow)
ROOMS = (adapters, attention, chains, families, oddities, pretrained, vision)


def make(name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """Return a model of the zoo and its inputs, the same for the same seed; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ZOO[name]()


def run(model: nn.Module, inputs: Any) -> Any:
    """Run a model on inputs of any form."""
    if callable(inputs):
        return inputs()
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def expected_groups(name: str, model: nn.Module) -> dict[str, tuple[int, bool, set[str], set[str]]]:
    """Return by name of the group: its size, whether it is coupled, the tensors that write and those that read it."""
    groups = {}
    for group, text in SPECIMENS[name].groups.items():
        size, coupled, writers, readers = re.fullmatch(r"(\d+)(~?):(.*)>(.*)", text).groups()
        groups[group] = (int(size), bool(coupled), _paths(model, writers), _paths(model, readers))
    return groups


def _paths(model: nn.Module, patterns: str) -> set[str]:
    tensors = {
        name
        for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
        if tensor.is_floating_point()
    }
    found = set()
    for pattern in patterns.split():
        matches = {name for name in tensors if re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), name)}
        assert matches, f"nothing is called {pattern} in {sorted(tensors)}"
        found |= matches
    return found
