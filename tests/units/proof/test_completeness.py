"""What was forgotten is told by units that act on the output; where too few act, nothing is."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from zoo import make

from lightning_plasticity.units import Tap, UnitGroup, UnitMap, discover_units, verify_units
from lightning_plasticity.units.proof.forgotten import forgotten
from lightning_plasticity.units.proof.sandbox import sandbox

WRITERS = (("weight", "weight"), ("bias", "bias"))


class MostlyDead(nn.Sequential):
    """Of its six hidden units, the first ``alive`` are not silent on positive inputs."""

    def __init__(self, alive: int) -> None:
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        with torch.no_grad():
            self[0].weight.abs_().add_(0.1)
            self[0].weight[alive:] *= -1
            self[0].bias.fill_(-0.01)


class Masked(MostlyDead):
    """Of its six hidden units, one is read, whatever the weights are."""

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)) * (torch.arange(6) == 0))


class Detached(MostlyDead):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](torch.from_numpy(self[1](self[0](x)).detach().numpy().copy()))


def bias_only(model: nn.Sequential) -> UnitMap:
    """Return a map that has forgotten the weight of its units."""
    bias = slot(model, "0.bias", kind="bias")
    return UnitMap(model, (UnitGroup("0", 6, (bias,), (), (slot(model, "2.weight", 1),), None),))


def proof_of(model: nn.Sequential):
    torch.manual_seed(0)
    return verify_units(model, torch.rand(8, 4), bias_only(model))["0"]


def test_silent_units_that_are_exchanged_show_nothing_so_those_that_act_are() -> None:
    assert proof_of(MostlyDead(2)).complete is False


def test_units_that_are_dead_are_tried_with_other_weights() -> None:
    assert proof_of(MostlyDead(1)).complete is False


def test_of_fewer_than_two_units_that_act_with_any_weights_nothing_is_told() -> None:
    assert proof_of(Masked(6)).complete is None


class Branches(nn.Module):
    """Two layers write the same units, each on one half of the data; of the first, only one unit is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        with torch.no_grad():
            self.right.weight.abs_()
            self.left.weight.abs_()[1:] *= -1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.relu(self.left(x[:4])), torch.relu(self.right(x[4:]))]))


@pytest.mark.parametrize(("left_out", "complete"), [("left", False), ("right", False), (None, True)])
def test_units_that_are_dead_where_an_entry_was_forgotten_vouch_for_nothing(left_out, complete) -> None:
    torch.manual_seed(0)
    model = Branches()
    writers = [slot(model, f"{side}.{name}", kind=kind) for side in ("left", "right") for name, kind in WRITERS]
    kept = tuple(writer for writer in writers if writer.path != f"{left_out}.weight")
    group = UnitGroup("units", 6, kept, (), (slot(model, "head.weight", 1),), None)
    proof = verify_units(model, torch.rand(8, 4), UnitMap(model, (group,)))["units"]
    assert proof.complete is complete
    assert f"each of {left_out}.weight has entries" in "".join([*proof.problems, "each of None.weight has entries"])


def test_units_that_differ_in_place_are_complete_if_no_entry_acts_through_one_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    (first, bias), read = (slot(model, "0.weight"), slot(model, "0.bias", kind="bias")), (slot(model, "1.weight"),)
    right = UnitGroup("0", 4, (first, bias), (), read, None)
    for group, complete in ((right, True), (replace(right, incoming=(first,)), False)):
        assert verify_units(model, torch.randn(8, 3, 5), UnitMap(model, (group,)))["0"].complete is complete


class Stream(nn.Module):
    """Units that differ in place, are written again after they were read, and are read at last by a product."""

    def __init__(self, factors: int) -> None:
        super().__init__()
        self.first, self.read, self.again = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 6)
        self.head = nn.ParameterList(torch.randn(2, 6) for _ in range(factors))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x)
        stream = stream + self.again(torch.relu(self.read(stream)))
        return F.linear(torch.tanh(stream) * torch.arange(1, 7), reduce(torch.mul, self.head))

    def units(self, left_out: str | None, observed: bool) -> UnitGroup:
        layers = ("first", "again")
        writers = [slot(self, f"{layer}.{name}", kind=kind) for layer in layers for name, kind in WRITERS]
        kept = tuple(writer for writer in writers if writer.path != left_out)
        readers = (slot(self, "read.weight", 1), *(slot(self, f"head.{i}", 1) for i in range(len(self.head))))
        tap = Tap(self.read, "read", "input", 0, -1, torch.arange(6)[:, None])
        return UnitGroup("first", 6, kept, (), readers, tap if observed else None)


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("left_out", ["first.weight", "again.bias", None])
@pytest.mark.parametrize("factors", [1, 2])
def test_what_was_forgotten_is_told_if_it_comes_before_what_reads_the_units(factors, left_out, observed) -> None:
    torch.manual_seed(0)
    model = Stream(factors)
    group = model.units(left_out, observed)
    complete = verify_units(model, torch.randn(8, 4), UnitMap(model, (group,)))["first"].complete
    is_seen = factors == 1 or (observed and left_out == "first.weight")
    assert complete is (True if left_out is None else False if is_seen else None)


@pytest.mark.parametrize("kinds", [("weight", "bias"), ("weight",)])
def test_an_entry_that_acts_through_one_unit_because_its_other_readers_are_dead_was_not_forgotten(kinds) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.Conv1d(3, 6, 1, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([20.0, -20.0]).repeat(3))  # of the two readers of each channel, one is dead
    written = tuple(slot(model, f"1.{kind}", kind=kind) for kind in kinds)
    group = UnitGroup("1", 6, written, (), (slot(model, "4.weight", 1, torch.arange(30).view(6, 5)),), None)
    with sandbox(model, torch.randn(8, 3, 5)) as box:
        assert forgotten(box, [group], UnitMap(model, (group,))) == {"1": ["1.bias"] * ("bias" not in kinds)}


class Batched(nn.Module):
    """Each unit reads three features of its own, in a product for all units at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bgi,gi->bg", x[..., 0].unflatten(1, (4, 3)), self.weight) + self.bias


ALONE = {
    "convolution": lambda: nn.Conv1d(12, 4, 3, groups=4),
    "transposed convolution": lambda: nn.ConvTranspose1d(12, 4, 3, groups=4),
    "weight norm": lambda: weight_norm(nn.Conv1d(12, 4, 3, groups=4)),
    "batched product": Batched,
}


@pytest.mark.parametrize("alone", ALONE)
def test_several_features_that_one_unit_alone_reads_were_not_forgotten(alone) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(12), ALONE[alone](), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(8, 12, 5)
    model(x)
    (group,) = discover_units(model, x)
    check_that_what_is_left_out_is_told(model, x, group)


def test_a_factor_of_units_was_forgotten_though_the_other_factor_is_all_that_passes_it_on() -> None:
    model, x = make("filter_made_by_a_network")
    check_that_what_is_left_out_is_told(model, x, discover_units(model, x)["enter"])


def check_that_what_is_left_out_is_told(model: nn.Module, x: Tensor, group: UnitGroup) -> None:
    for left_out in (None, *group.incoming):
        kept = replace(group, incoming=tuple(writer for writer in group.incoming if writer is not left_out))
        with sandbox(model, x) as box:
            found = forgotten(box, [kept], UnitMap(model, (kept,)))[group.name]
        assert found == [] if left_out is None else left_out.path in found


def test_without_derivatives_units_that_act_are_found_by_trial_and_what_was_forgotten_is_not_told() -> None:
    torch.manual_seed(0)
    model, x = Detached(6), torch.rand(8, 4)
    (wrong,) = bias_only(model)
    right = UnitGroup("0", 6, (slot(model, "0.weight"), *wrong.incoming), (), wrong.outgoing, None)
    assert verify_units(model, x, UnitMap(model, (right,)))["0"].complete is True
    assert verify_units(model, x, UnitMap(model, (wrong,)))["0"].complete is None


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
