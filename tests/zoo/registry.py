"""How the models of the zoo are declared: a factory, and what must be found in its model, written down by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

Factory = Callable[[], tuple[nn.Module, Any]]


@dataclass(frozen=True)
class Specimen:
    """A model and what discovery must say about it.

    Args:
        make: Returns the model (random weights) and inputs it runs on.
        groups: Name to ``"size: tensors that write > tensors that read"``, where ``layer.*`` stands for every parameter
            and floating-point buffer of a layer, and ``~`` after the size marks a coupled group.
        may: Names of groups that are right too, but that we do not insist on.
        refused: Layers that must be reported as skipped, with a word of the reason.
        slow: Whether the model takes seconds rather than milliseconds.
    """

    make: Factory
    groups: dict[str, str]
    may: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    slow: bool = False


SPECIMENS: dict[str, Specimen] = {}


def specimen(
    groups: dict[str, str],
    *,
    may: tuple[str, ...] = (),
    refused: dict[str, str] | None = None,
    slow: bool = False,
) -> Callable[[Factory], Factory]:
    """Register a factory under its name."""

    def register(make: Factory) -> Factory:
        SPECIMENS[make.__name__] = Specimen(make, groups, may, tuple((refused or {}).items()), slow)
        return make

    return register


def layers(*widths: int) -> nn.Sequential:
    """Return a chain of linear layers with ReLUs between them."""
    steps = [step for pair in pairwise(widths) for step in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*steps[:-1])
