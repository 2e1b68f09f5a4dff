"""Small networks, the units of a single layer, and a short training for tests of the parts of methods."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from lightning_plasticity.replacement import Method, Random, Replacement
from lightning_plasticity.units import discover_units


def mlp(*widths, activation=nn.ReLU, bias=True):
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


def groups_of(model, *shape):
    return tuple(discover_units(model, torch.randn(2, *shape, dtype=next(model.parameters()).dtype)))


def method(selection, *edits, utility=None, every_n_steps=1, optimizer_state="zero"):
    return Method(utility or Random(), selection, edits, every_n_steps, optimizer_state)


def apply(edit, group, units, *, score=None, state=None, held=None, seed=0):
    """Prepare an edit (unless ``held`` is given) and apply it to ``units``."""
    score = torch.zeros(group.size, dtype=torch.float64) if score is None else score
    held = edit.prepare(group) if held is None else held
    with torch.no_grad():
        edit(
            Replacement(
                group,
                torch.tensor(units, dtype=torch.int64),
                score,
                state or {},
                held,
                torch.Generator().manual_seed(seed),
            )
        )


def train(model, optimizer, batches, target=None):
    """Take one optimizer step per batch."""
    for x in batches:
        optimizer.zero_grad()
        output = model(x)
        loss = output.square().mean() if target is None else (output - target(x)).square().mean()
        loss.backward()
        optimizer.step()
