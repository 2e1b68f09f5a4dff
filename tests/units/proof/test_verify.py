"""The proof accepts right groups, names the wrong ones, and says what it cannot prove."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from support.proof_cases import Network, group_of, prove, slot
from torch import Tensor, nn

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError, UnsupportedModelError
from lightning_plasticity.units import UnitGroup, UnitMap, discover_units, verify_units


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_right_units_are_proven_in_both_modes() -> None:
    model = Network()
    (proof,) = prove(model, group_of(model))
    assert proof.proven
    assert proof.problems == []
    assert proof.modes == ("evaluation", "training")
    assert (proof.exclusive, proof.complete, proof.tapped) == (True, True, True)


def test_one_unit_is_proven() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh(), nn.Linear(1, 2))
    group = UnitGroup("0", 1, (slot(model, "0.weight"),), (), (slot(model, "2.weight", 1),), None)
    (proof,) = prove(model, group)
    assert proof.proven
    assert proof.complete is None


def test_an_empty_map_has_no_proofs() -> None:
    model = Network()
    proofs = prove(model)
    assert len(proofs) == 0
    assert proofs.failed == ()


def test_one_wrong_group_does_not_spoil_the_others() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = [
        UnitGroup(i, 6, (slot(model, f"{i}.weight"), slot(model, f"{i}.bias", kind="bias")), (), (out,), None)
        for i, out in [("0", slot(model, "2.weight", 1)), ("2", slot(model, "4.weight", 1))]
    ]
    groups[1] = replace(groups[1], outgoing=(slot(model, "4.weight", 1, torch.zeros(6, 1, dtype=torch.long)),))
    proofs = prove(model, *groups)
    assert [proof.group for proof in proofs.failed] == ["2"]


def test_a_batch_of_one_is_proven_in_evaluation_mode_only() -> None:
    model = Network()
    (proof,) = prove(model, group_of(model), x=torch.randn(1, 4))
    assert proof.proven
    assert proof.modes == ("evaluation",)


def test_proofs_are_true_unless_a_law_is_refuted() -> None:
    model = Network()
    right = group_of(model)
    assert prove(model, right)
    assert not prove(model, replace(right, outgoing=()))


def test_the_summary_names_verdicts_and_problems() -> None:
    model = Network()
    right = group_of(model)
    text = prove(model, replace(right, outgoing=right.outgoing[:1])).summary()
    assert text.splitlines()[0].split()[:3] == ["group", "units", "independent"]
    assert text.splitlines()[1].split()[:3] == ["first", "6", "NO"]
    assert "first: units" in text


def test_the_same_seed_gives_the_same_proof() -> None:
    model = Network()
    x = torch.randn(8, 4)
    right = group_of(model)
    wrong = UnitMap(model, (replace(right, outgoing=right.outgoing[:1]),))
    assert verify_units(model, x, wrong, seed=3) == verify_units(copy.copy(model), x, wrong, seed=3)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = Network()
    with pytest.raises(UnsupportedModelError, match=r"does not run on the example: RuntimeError.*Remedy: Pass as"):
        prove(model, group_of(model), x=torch.randn(8, 5))


class InSinglePrecision(Network):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected Float32, got Double")
        return super().forward(x)


def test_a_model_that_computes_in_single_precision_only_is_refused_in_double_and_proven_in_single() -> None:
    model, x = InSinglePrecision(), torch.randn(8, 4)
    unit_map = UnitMap(model, (group_of(model),))
    message = r"does not run on the example in torch.float64.*got Double.*Remedy: Pass `dtype=torch.float32`"
    with pytest.raises(UnsupportedModelError, match=message):
        verify_units(model, x, unit_map)
    assert verify_units(model, x, unit_map, dtype=torch.float32)["first"].proven


def test_a_function_with_data_in_single_precision_is_refused_with_both_remedies() -> None:
    model, x = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 2, 1)), torch.randn(4, 2, 5)
    units = discover_units(model, lambda: model(x))
    with pytest.raises(UnsupportedModelError, match=r"`dtype=torch.float32`, or let the function run"):
        verify_units(model, lambda: model(x), units)
    assert verify_units(model, lambda: model(x), units, dtype=torch.float32)["0"].proven
    assert verify_units(model, lambda: model(x.double()), units)["0"].proven


def test_a_callable_that_returns_nothing_is_refused() -> None:
    model = Network()
    with pytest.raises(UnsupportedModelError, match=r"no tensor.*Return the output"):
        verify_units(model, lambda: None, UnitMap(model, (group_of(model),)))


def test_a_model_that_does_not_repeat_itself_is_refused() -> None:
    generator = torch.Generator()

    class Noisy(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(1, generator=generator)

    model = Noisy()
    with pytest.raises(UnsupportedModelError, match="two identical runs of the model differ"):
        prove(model, group_of(model))


def test_the_units_of_another_model_are_refused_and_not_taken_for_wrong():
    model, other = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    units = discover_units(other, torch.randn(2, 4))
    with pytest.raises(StateMismatchError, match=r"groups \['0'\] of another model than the Sequential"):
        verify_units(model, torch.randn(2, 4), units)
    assert verify_units(model, torch.randn(8, 4), units.update(model))["0"].proven


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"samples": 0}, "samples=0"),
        ({"dtype": torch.float16}, "dtype=torch.float16"),
        ({"seed": "a"}, "seed='a'"),
        ({"unit_map": torch.zeros(2)}, "unit_map of type Tensor"),
        ({"model": torch.zeros(2)}, "model of type Tensor"),
    ],
    ids=str,
)
def test_arguments_that_are_none_are_refused(setting, found):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(2, 4)
    arguments = {"model": model, "example_inputs": x, "unit_map": discover_units(model, x)} | setting
    with pytest.raises(InvalidArgumentError, match=found):
        verify_units(**arguments)


def test_the_default_device_is_none_of_our_business() -> None:
    model, x = Network(), torch.randn(8, 4)
    right, wrong = group_of(model), replace(group_of(model), incoming=group_of(model).incoming[:1])
    with torch.device("meta"):  # what is made without a device has no numbers
        assert verify_units(model, x, UnitMap(model, (right,)))["first"].proven
        assert verify_units(model, x, UnitMap(model, (wrong,)))["first"].complete is False
