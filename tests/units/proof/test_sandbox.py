"""The proof computes on a model of its own making, and leaves the user's exactly as it was."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.proof_cases import Network, group_of, prove
from support.snapshots import assert_equal, snapshot
from torch import Tensor, nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import Slot, UnitMap, verify_units
from lightning_plasticity.units.proof.sandbox import sandbox, tensors_in


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "callable"])
def test_every_form_of_example_inputs_is_taken(form) -> None:
    model, x = Network(), torch.randn(8, 4)
    example = {"tensor": x, "tuple": (x,), "dict": {"x": x}, "callable": lambda: {"loss": model(x).square().mean()}}[
        form
    ]
    assert verify_units(model, example, UnitMap(model, (group_of(model),)))["first"].proven


def test_half_precision_models_are_proven_in_double_precision() -> None:
    model = Network().bfloat16()
    (proof,) = prove(model, group_of(model), x=torch.randn(8, 4, dtype=torch.bfloat16))
    assert proof.proven
    assert model.first.weight.dtype == torch.bfloat16


def test_zero_initialised_readers_hide_nothing() -> None:
    model = Network()
    nn.init.zeros_(model.second.weight)
    nn.init.zeros_(model.third.weight)
    assert prove(model, group_of(model))["first"].proven


class Untidy(Network):
    """Remembers its last activation, replaces a buffer, draws from every generator, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.luck = itertools.repeat(True)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = x
        self.count = getattr(self, "count", 0) + 1
        if not next(self.luck, False):
            raise RuntimeError("out of luck")
        return super().forward(x) + random.gauss(0, 1) + np.random.rand() + torch.rand(())


def test_the_model_is_left_exactly_as_it_was() -> None:
    model = Untidy()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    before = snapshot(model)
    assert prove(model, group_of(model), x=torch.randn(8, 4, generator=torch.Generator()))["first"].proven
    assert_equal(snapshot(model), before)


@pytest.mark.parametrize(("luck", "error"), [(1, UnsupportedModelError), (15, RuntimeError)])
def test_the_model_is_left_exactly_as_it_was_after_an_error(luck, error) -> None:
    model = Untidy()
    model.luck = itertools.repeat(True, luck)  # an iterator is the one thing that is not put back
    before = snapshot(model)
    with pytest.raises(error, match="out of luck"):
        prove(model, group_of(model), x=torch.ones(8, 4))
    assert_equal(snapshot(model), before)


def test_an_autograd_graph_from_before_can_still_be_used() -> None:
    model = Network()
    loss = model(torch.randn(8, 4)).sum()
    prove(model, group_of(model))
    loss.backward()
    assert model.first.weight.grad is not None


def test_edits_are_undone_in_their_order() -> None:
    model = Network()
    group, units = group_of(model), torch.tensor([1, 4])
    with sandbox(model, torch.randn(8, 4)) as box:
        before = [slot.gather(units) for slot in group.slots]
        with box.edited():
            box.fill(group.slots, units, 3.0)
            with box.edited():
                box.redraw(group.slots, units)
                box.swap(group.slots, units[:1], units[1:])
            assert all((slot.gather(units) == 3).all() for slot in group.slots)
        assert all(torch.equal(slot.gather(units), was) for slot, was in zip(group.slots, before, strict=True))


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 0, 1]], ids=["each its own", "one shared"])
def test_an_exchange_is_undone_even_where_units_share_entries(order) -> None:
    model = nn.Linear(3, 3)
    slot = Slot(model, "weight", "weight", (1,), (torch.tensor(order)[:, None],))
    with sandbox(model, torch.randn(8, 3)) as box:
        before = model.weight.data.clone()
        with box.edited():
            box.swap([slot], torch.tensor([0]), torch.tensor([2]))
            assert not torch.equal(model.weight, before)
            box.swap([slot], torch.tensor([1]), torch.tensor([2]))
        assert torch.equal(model.weight, before)


def test_two_runs_draw_the_same_random_numbers() -> None:
    model = Network()
    with sandbox(model, torch.randn(8, 4)) as box:
        box.training = True
        (one,), (other,) = box.run(), box.run()
        assert torch.equal(one, other)
        assert one.dtype == torch.float64


def test_parameters_that_share_memory_go_on_sharing_it() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data.t())
    with sandbox(model, torch.randn(2, 3)):
        model[0].weight.data.fill_(7.0)
        assert (model[1].weight == 7).all()
    assert not (model[0].weight == 7).any()


def test_the_output_is_every_tensor_in_sequences_mappings_and_dataclasses() -> None:
    @dataclass
    class Output:
        logits: Tensor
        cache: object

    a, b, c = (torch.ones(()) * i for i in range(3))
    assert [*tensors_in({"x": [a, (b,)], "y": Output(c, object())})] == [a, b, c]
    assert [*tensors_in(object())] == []
