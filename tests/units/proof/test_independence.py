"""Redrawn units that nothing reads reach no output, and move their own features of the tap and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot

from lightning_plasticity.units import Tap, verify_units
from lightning_plasticity.units.unit_map import UnitMap


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


@pytest.mark.parametrize("seed", range(6))
def test_two_units_that_are_exchanged_in_one_slot_are_told_apart_if_one_of_them_acts(seed) -> None:
    model = Network(activation=lambda x: x * (torch.arange(6) != 1))  # the second never acts, the first always does
    right = group_of(model)
    exchanged = torch.tensor([1, 0, 2, 3, 4, 5])[:, None]
    norms = tuple(replace(s, index=(exchanged,)) if s.kind == "mean" else s for s in right.norms)
    wrong = UnitMap(model, (replace(right, norms=norms),))
    assert not verify_units(model, torch.randn(8, 4), wrong, seed=seed)["first"].independent


def test_once_independence_is_refuted_nothing_is_said_about_the_tap() -> None:
    model = Network()
    right = group_of(model)
    (proof,) = prove(model, replace(right, outgoing=right.outgoing[:1]))
    assert proof.tapped is None
    assert len(proof.problems) == 1
