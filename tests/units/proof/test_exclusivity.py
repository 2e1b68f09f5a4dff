"""What is said to read the units reads nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_plasticity.units import Slot, UnitGroup, UnitMap, discover_units, verify_units


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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


NEVER_ZERO = [torch.exp, F.softplus, torch.sigmoid, lambda w: w.softmax(1), lambda w: 1 + w.abs()]


class Computed(nn.Sequential):
    """Computes the weight of its units, and adds ``beside`` times the input to them; two layers read them."""

    def __init__(self, compute, beside: float = 0.0) -> None:
        super().__init__(nn.Linear(6, 6, bias=False), nn.Linear(6, 2), nn.Linear(6, 2))
        self.compute, self.beside = compute, beside

    def forward(self, x: Tensor) -> Tensor:
        units = F.linear(x, self.compute(self[0].weight)) + self.beside * x
        return self[1](torch.tanh(units)) + self[2](units)


def computed_group(model: nn.Module) -> UnitGroup:
    readers = slot(model, "1.weight", 1), slot(model, "2.weight", 1)
    return UnitGroup("0", 6, (slot(model, "0.weight"),), (), readers, None)


@pytest.mark.parametrize("compute", NEVER_ZERO)
def test_computed_weights_that_are_never_zero_do_not_refute_a_right_group(compute) -> None:
    model = Computed(compute)
    (proof,) = prove(model, computed_group(model), x=torch.randn(8, 6))
    assert proof.proven


@pytest.mark.parametrize("compute", NEVER_ZERO)
def test_nor_do_they_hide_what_else_is_read(compute) -> None:
    model = Computed(compute, beside=1.0)
    (proof,) = prove(model, computed_group(model), x=torch.randn(8, 6))
    assert not proof.proven


def test_a_reader_whose_computed_weight_is_never_zero_is_none() -> None:
    class Averaging(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(self[0](x)), self[1].weight.softmax(1))

    model = Averaging(nn.Linear(4, 6, bias=False), nn.Linear(6, 2))
    group = UnitGroup("0", 6, (slot(model, "0.weight"),), (), (slot(model, "1.weight", 1),), None)
    assert not prove(model, group)["0"].independent  # whatever stands in its entries, it goes on reading the units


def test_what_writes_two_units_is_not_what_reads_them() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3))
    units = discover_units(model, torch.randn(8, 4))
    foreign = slot(model, "2.weight", 1, torch.arange(2)[:, None])
    wrong = replace(units["2"], outgoing=(*units["2"].outgoing, foreign))
    assert prove(model, units["2"])["2"].proven
    assert not prove(model, wrong)["2"].proven


@pytest.mark.parametrize("seed", range(4))
def test_columns_of_units_most_of_which_are_dead_are_not_exclusive(seed) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[2].bias[1:] = -100.0
    x = torch.randn(8, 4)
    units = discover_units(model, x)
    foreign = slot(model, "4.weight", 1, torch.arange(6)[:, None])
    wrong = replace(units["0"], outgoing=(*units["0"].outgoing, foreign))
    assert not verify_units(model, x, UnitMap(model, (wrong,)), seed=seed)["0"].proven


def test_a_model_that_refuses_some_numbers_is_proven() -> None:
    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            mean, deviation = self.head(torch.cos(self.hidden(x)) - 1).chunk(2, -1)
            return torch.distributions.Normal(mean, torch.relu(deviation) + 1e-3 * deviation.abs()).log_prob(mean + 1)

    model, x = Gaussian(), torch.randn(8, 4)
    proofs = verify_units(model, x, discover_units(model, x))
    assert proofs["hidden"].proven
