"""Each law refutes what it is there to refute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import Slot, Tap, UnitGroup


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_forgotten_reader_breaks_independence() -> None:
    model = Network()
    right = group_of(model)
    proofs = prove(model, replace(right, outgoing=right.outgoing[:1]))
    assert [proof.group for proof in proofs.failed] == ["first"]
    assert not proofs["first"].independent
    assert "though nothing reads them" in proofs["first"].problems[0]


def test_columns_of_another_unit_break_independence() -> None:
    model = Network()
    right = group_of(model)
    shifted = replace(right.outgoing[0], index=(torch.arange(6).roll(1)[:, None],))
    assert not prove(model, replace(right, outgoing=(shifted, right.outgoing[1])))["first"].independent


def test_incoming_slots_that_reach_others_break_independence() -> None:
    model = Network()
    right = group_of(model)
    foreign = slot(model, "second.bias", 0, torch.tensor([0, 1, 2, 3, 4, 0])[:, None], kind="bias")
    assert not prove(model, replace(right, incoming=(*right.incoming, foreign)))["first"].independent


def test_a_reader_too_many_is_not_exclusive() -> None:
    model = Network()
    right = group_of(model)
    right = replace(right, size=5, incoming=tuple(map(first_five, right.incoming)))
    right = replace(right, norms=tuple(map(first_five, right.norms)), outgoing=tuple(map(first_five, right.outgoing)))
    foreign = slot(model, "beside.weight", 0)
    proof = prove(model, replace(right, tap=None, outgoing=(*right.outgoing, foreign)))["first"]
    assert proof.independent
    assert not proof.exclusive  # setting it to zero removes more than the unit


def first_five(slot: Slot) -> Slot:
    return replace(slot, index=(slot.index[0][:5],))


def test_a_reader_whose_result_nobody_uses_is_not_needed() -> None:
    model = Network()
    model.unused = nn.Linear(6, 2)
    right = group_of(model)
    proof = prove(model, replace(right, outgoing=(*right.outgoing, slot(model, "unused.weight", 1))))["first"]
    assert not proof.minimal
    assert proof.problems == ["unused.weight does not read the units"]


def test_columns_that_also_hold_other_entries_are_not_exclusive() -> None:
    model = Network()
    right = group_of(model)
    wide = replace(right.outgoing[0], index=(torch.stack([torch.arange(6), torch.arange(6).roll(1)], dim=1),))
    proof = prove(model, replace(right, outgoing=(wide, right.outgoing[1])))["first"]
    assert proof.exclusive is False
    assert "second.weight: an entry belongs to two units" in proof.problems


def test_columns_that_also_read_what_is_no_unit_are_not_exclusive() -> None:
    class Mixed(Network):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x)) + F.pad(x, (0, 2))
            return torch.cat([self.second(hidden), self.third(hidden)], dim=-1)

    model = Mixed(nn.Identity())
    (proof,) = prove(model, group_of(model))
    assert proof.independent
    assert proof.exclusive is False


def test_weights_that_are_written_where_they_are_read_are_refuted() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = nn.Parameter(model[0].weight.data.t())  # another parameter on the same numbers
    group = UnitGroup("0", 3, (slot(model, "0.weight"),), (), (slot(model, "2.weight", 1),), None)
    (proof,) = prove(model, group, x=torch.randn(8, 3))
    assert proof.exclusive is False
    assert proof.problems == ["0.weight: its entries are read where they are written (tied weights)"]


def test_units_that_are_never_silent_are_exclusive_if_the_tap_shows_a_constant() -> None:
    model = Network(activation=torch.cos)
    assert prove(model, group_of(model))["first"].proven
    (proof,) = prove(model, replace(group_of(model), tap=None))
    assert proof.exclusive is None
    assert not proof.proven


@pytest.mark.parametrize("activation", [torch.sigmoid, F.softplus, F.gelu, torch.tanh, lambda x: 1 + torch.relu(x)])
def test_activations_without_a_zero_at_zero_do_not_refute_a_right_group(activation) -> None:
    model = Network(activation=activation)
    proof = prove(model, group_of(model))["first"]
    assert proof.proven
    assert proof.exclusive is not False


@pytest.mark.parametrize("positive", [torch.exp, F.softplus, torch.sigmoid, torch.abs])
def test_weights_that_are_made_positive_do_not_refute_a_right_group(positive) -> None:
    class Positive(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](torch.tanh(F.linear(x, positive(self[0].weight))))

    model = Positive(nn.Linear(4, 6, bias=False), nn.Linear(6, 2))
    (proof,) = prove(model, UnitGroup("0", 6, (slot(model, "0.weight"),), (), (slot(model, "1.weight", 1),), None))
    assert proof.proven


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


@pytest.mark.parametrize("kind", ["bias", "scale", "shift", "mean", "variance"])
def test_a_forgotten_entry_shows_when_units_are_exchanged(kind) -> None:
    model = Network()
    right = group_of(model)
    kept = {room: tuple(s for s in getattr(right, room) if s.kind != kind) for room in ("incoming", "norms")}
    (path,) = (
        {slot.path for slot in right.slots}
        - {slot.path for slots in kept.values() for slot in slots}
        - {slot.path for slot in right.outgoing}
    )
    proof = prove(model, replace(right, **kept))["first"]
    assert proof.complete is False
    assert f"each of {path} has entries that act through one of them alone" in proof.problems[-1]


def test_a_tap_at_the_wrong_features_is_found() -> None:
    model = Network()
    right = group_of(model)
    wrong = replace(right.tap, index=torch.arange(6).roll(1)[:, None])
    assert prove(model, replace(right, tap=wrong))["first"].tapped is False


def test_a_tap_that_sees_nothing_of_the_units_is_found() -> None:
    model = Network()
    wrong = Tap(model.beside, "beside", "output", 0, -1, torch.tensor([0, 1, 2, 3, 4, 0])[:, None])
    assert prove(model, replace(group_of(model), tap=wrong))["first"].tapped is False


def test_without_a_tap_nothing_is_said_about_it() -> None:
    model = Network()
    proof = prove(model, replace(group_of(model), tap=None))["first"]
    assert proof.tapped is None
    assert proof.proven
