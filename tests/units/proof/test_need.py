"""Units that do not matter, and slots that read nothing of them, are found; to matter with some weights will do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot
from torch import Tensor, nn

from lightning_plasticity.units import discover_units, verify_units


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_layer_that_does_not_run_reads_nothing() -> None:
    model = Network()
    model.unused = nn.Linear(6, 2)
    right = group_of(model)
    proof = prove(model, replace(right, outgoing=(*right.outgoing, slot(model, "unused.weight", 1))))["first"]
    assert not proof.minimal
    assert proof.problems == ["unused.weight does not read the units"]


WASTES = {
    "not joined": lambda needed, waste: needed,
    "cut off": lambda needed, waste: torch.cat([needed, waste], -1)[:, :5],
    "zero but for rounding": lambda needed, waste: (
        needed + nn.functional.layer_norm(waste, (3,)).mean(-1, keepdim=True)
    ),
}


class Wasteful(Network):
    """A layer runs, and its result comes to nothing."""

    def __init__(self, combine) -> None:
        super().__init__()
        self.waste, self.combine = nn.Linear(6, 3), combine

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(x)))
        needed, waste = self.second(hidden) + self.third(hidden).sum(), self.waste(hidden)
        return self.combine(needed, waste) + self.beside(x)


@pytest.mark.parametrize("waste", WASTES)
def test_of_a_reader_whose_result_comes_to_nothing_it_cannot_be_told_what_it_reads(waste) -> None:
    model = Wasteful(WASTES[waste])
    right = group_of(model)
    proof = prove(model, replace(right, outgoing=(*right.outgoing, slot(model, "waste.weight", 1))))["first"]
    assert proof.minimal is None
    assert proof.proven
    assert proof.problems == ["waste.weight acts on nothing, so it does not show what it reads"]


def test_units_that_do_not_matter_are_not_sensitive() -> None:
    class Idle(Network):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x)) * 0.0
            return self.second(hidden) + self.beside(x)

    model = Idle(nn.Identity())
    right = group_of(model)
    proof = prove(model, replace(right, outgoing=right.outgoing[:1]))["first"]
    assert not proof.sensitive
    assert any("do not change the output" in problem for problem in proof.problems)


def test_units_of_an_expert_that_is_not_chosen_with_some_weights_matter() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.head = nn.Linear(4, 2), nn.Linear(5, 2)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            weight, choice = self.router(x).softmax(-1).max(-1)
            mixed = [self.experts[int(i)](row) * w for row, i, w in zip(x, choice, weight, strict=True)]
            return self.head(torch.stack(mixed))

    model, x = Experts(), torch.randn(12, 4)
    unit_map = discover_units(model, x)
    for seed in range(4):
        proofs = verify_units(model, x, unit_map, seed=seed)
        assert len(proofs) >= 2
        assert proofs.failed == (), proofs.summary()


def test_units_that_are_read_by_a_dead_unit_with_the_first_sets_of_weights_matter() -> None:
    layers = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)
    model, x = nn.Sequential(*layers), torch.randn(1, 3)
    with torch.no_grad():
        model[2].bias.fill_(-1.0)
    units = discover_units(model, x)
    assert all(verify_units(model, x, units, seed=seed)["0"].sensitive for seed in (10, 15))
