"""The proof finds every single mistake in a map that is right otherwise, though it tries all groups at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.mutants import mutants
from torch import Tensor, nn
from zoo import SPECIMENS, ZOO, make, run

from lightning_plasticity.units import Slot, UnitGroup, UnitMap, UnitProofs, discover_units, verify_units
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.tensors import tensors_in

FAST = {"mlp_without_bias"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in ZOO if not SPECIMENS[name].slow]
SEEDS = 10


def lively(name: str) -> tuple[nn.Module, Any, UnitMap, UnitProofs]:
    """Return a model of the zoo, with units that act on the output if there is such a seed, and what is right of it."""
    for seed in range(SEEDS):
        model, inputs = make(name)
        moved(model, seed)
        unit_map = discover_units(model, inputs, residual="group")
        proofs = verify_units(model, inputs, unit_map)
        if all(proof.complete for proof in proofs):
            break
    return model, inputs, unit_map, proofs


@torch.no_grad()
def moved(model: nn.Module, seed: int) -> None:
    """Move all weights, by nothing for seed 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise * parameter.square().mean().sqrt() * (seed > 0))


@torch.no_grad()
def matters(model: nn.Module, inputs: Any, slot: Slot) -> bool:
    """Return whether the tensor of a slot does anything: a bias in front of an instance norm does not."""
    before = [*tensors_in(run(model.eval(), inputs))]
    kept = slot.tensor.clone()
    slot.tensor.add_(torch.rand(kept.shape))
    after = [*tensors_in(run(model, inputs))]
    slot.tensor.copy_(kept)
    return difference(before, after) > 1e-4


def active(model: nn.Module, inputs: Any, group: UnitGroup) -> list[int]:
    """Return two units of the group, of those that are not silent if the tap tells."""
    seen = torch.zeros(group.size)

    def note(activation: Tensor) -> None:
        seen.add_(group.tap.samples(activation.detach().float())[:, group.tap.index].abs().sum((0, 2)))

    if group.tap is not None:
        handle = group.tap.watch(note)
        with torch.no_grad():
            run(model.eval(), inputs)
        handle.remove()
    return seen.argsort(descending=True, stable=True)[:2].tolist()


def is_hidden(proof: Any, mistake: str) -> bool:
    """Return whether it can be neither shown nor refuted that an entry was forgotten, see ``UnitProof.complete``."""
    return proof.complete is None and mistake.startswith(("without", "a feature too few"))


@pytest.mark.parametrize("name", NAMES)
def test_no_mistake_is_proven_and_no_right_group_is_blamed(name) -> None:
    """Groups are proven together, and in slow tests alone: the verdict is the same, the time is not."""
    model, inputs, unit_map, right = lively(name)
    assert right.failed == ()
    tried, missed = 0, []
    for group in unit_map:
        others = [other for other in unit_map if other is not group][:2]
        idle = tuple(slot.path for slot in group.slots if not matters(model, inputs, slot))
        for mistake, wrong in mutants(group, others, active(model, inputs, group)):
            if mistake.endswith(idle):
                continue
            groups = tuple(wrong if other is group else other for other in unit_map if name in FAST or other is group)
            proof = verify_units(model, inputs, UnitMap(model, groups))[group.name]
            missed += [(group.name, mistake)] * (proof.proven and not is_hidden(proof, mistake))
            tried += 1
    assert tried > 0 or len(unit_map) == 0
    assert missed == []
