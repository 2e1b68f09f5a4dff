"""Rows and columns of computed weights are followed back to the parameters, or refused with what computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from lightning_plasticity.units import UnitMap, discover_units, verify_units

X = torch.randn(8, 4)


class Computed(nn.Module):
    """A parametrisation by any function of the weight."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, weight: Tensor) -> Tensor:
        return self.function(weight)


def with_weight(change) -> nn.Sequential:
    """Return an MLP whose middle layer is changed, or has a weight that is computed by a function."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    if isinstance(change, Computed):
        parametrize.register_parametrization(model[2], "weight", change, unsafe=True)
    else:
        change(model[2])
    return model


def found(model: nn.Module, inputs: Tensor = X) -> UnitMap:
    """Return the units, proven."""
    units = discover_units(model, inputs)
    proofs = verify_units(model, inputs, units)
    assert not proofs.failed, proofs.summary()
    return units


def names(slots) -> list[str]:
    return [slot.path.removeprefix("2.").removeprefix("parametrizations.weight.") for slot in slots]


ROW_BY_ROW = {
    "weight norm by hand": (Computed(lambda w: w / w.norm(dim=1, keepdim=True)), True),
    "weight norm with a detached norm": (Computed(lambda w: w / w.norm(dim=1, keepdim=True).detach()), True),
    "a function that is zero at zero": (Computed(torch.tanh), False),
    "a threshold": (Computed(lambda w: torch.where(w.abs() > 0.1, w, 0.0)), False),
    "dropped weights": (Computed(lambda w: F.dropout(w, 0.5)), False),
    "rounded weights": (Computed(lambda w: w + ((w / 0.01).round() * 0.01 - w).detach()), False),
    "a pruning mask": (lambda layer: prune.random_unstructured(layer, "weight", 0.5), False),
    "written piece by piece": (Computed(lambda w: torch.zeros(6, 8).index_copy_(0, torch.arange(6), w).mul_(2)), False),
}


@pytest.mark.parametrize("kind", ROW_BY_ROW)
def test_rows_and_columns_of_the_computed_weight_are_those_of_the_parameter(kind):
    torch.manual_seed(0)  # dropout may drop all that a column has
    change, coupled = ROW_BY_ROW[kind]
    units = found(with_weight(change))
    assert [(group.name, group.size, group.coupled) for group in units] == [("0", 8, coupled), ("2", 6, False)]
    (column,), (row, _) = units["0"].outgoing, units["2"].incoming
    assert column.tensor is row.tensor
    assert column.index[0].flatten().tolist() == [*range(8)]
    assert (column.dims, row.dims) == ((1,), (0,))


NOT_AT_ZERO = {
    "a function that is not zero at zero": F.softplus,
    "a softmax": lambda w: w.softmax(1),
    "a standardised row": lambda w: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True),
}


@pytest.mark.parametrize("kind", NOT_AT_ZERO)
def test_a_weight_of_which_no_column_can_be_silenced_has_units_and_reads_none(kind):
    units = found(with_weight(Computed(NOT_AT_ZERO[kind])))
    assert [group.name for group in units] == ["2"]
    (reason,) = (skip for skip in units.skipped if skip.layer == "0")
    assert reason.reason.startswith("the weight of 2, which reads it, is computed from parameters (")
    assert reason.reason.endswith("), none of whose entries, set to zero, silences one unit alone")
    assert reason.remedy == "Remove the parametrisation of the layer that reads it"


MIXED = {
    "spectral norm": (parametrizations.spectral_norm, "mv, vdot, div"),
    "the norm of the whole weight": (lambda layer: parametrizations.weight_norm(layer, dim=None), "norm, div, mul"),
    "orthogonal": (parametrizations.orthogonal, "householder_product"),
    "a product with itself": (Computed(lambda w: w @ w.t() @ w), "mm"),
    "rounding": (Computed(torch.round), "round"),
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_weight_that_mixes_its_rows_and_columns_is_refused_with_the_operations_that_do(kind):
    change, how = MIXED[kind]
    units = found(with_weight(change))
    reasons = {skip.layer: skip for skip in units.skipped}
    assert len(units) == 0
    assert "none of whose entries, set to zero, silences one unit alone" in reasons["0"].reason
    assert f"{how}" in reasons["2"].reason
    assert reasons["2"].reason.startswith("its weight is computed from parameters (")
    assert reasons["2"].reason.endswith("), none of whose entries belongs to one unit alone")
    assert reasons["2"].remedy.startswith("Compute each row of the weight by itself")


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_computed_by_a_hook_before_the_forward_pass_are_followed_back_too():
    units = found(with_weight(nn.utils.weight_norm))
    assert names(units["2"].incoming) == ["weight_v", "weight_g", "bias"]
    assert names(units["0"].outgoing) == ["weight_v"]
    units = found(with_weight(nn.utils.spectral_norm))
    assert [skip.layer for skip in units.skipped if "computed from parameters" in skip.reason] == ["0", "2"]


def test_length_and_direction_of_a_row_write_its_unit_and_the_direction_alone_reads():
    units = found(with_weight(parametrizations.weight_norm))
    assert names(units["2"].incoming) == ["original1", "original0", "bias"]
    assert names(units["0"].outgoing) == ["original1"]
    assert [group.coupled for group in units] == [True, False]
    assert [
        group.name for group in discover_units(with_weight(parametrizations.weight_norm), X, through_norms=False)
    ] == ["2"]


def test_a_column_that_is_all_of_its_norm_cannot_be_silenced():
    model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    parametrize.register_parametrization(model[2], "weight", ROW_BY_ROW["weight norm by hand"][0], unsafe=True)
    units = found(model)
    assert len(units) == 0
    assert "set to zero, silences one unit alone" in units.skipped[0].reason


def test_a_column_that_is_all_of_its_norm_is_silenced_by_the_lengths_of_the_rows():
    model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), parametrizations.weight_norm(nn.Linear(1, 6)), nn.ReLU())
    units = found(model.append(nn.Linear(6, 2)))
    assert names(units["0"].outgoing) == ["original0"]
    assert names(units["2"].incoming) == ["original1", "original0", "bias"]


def test_the_length_of_a_column_reads_its_unit_if_columns_are_normed():
    units = found(with_weight(lambda layer: parametrizations.weight_norm(layer, dim=1)))
    assert [(group.name, group.size, group.coupled) for group in units] == [("0", 8, False)]
    assert names(units["0"].outgoing) == ["original0"]
    (reason,) = (skip.reason for skip in units.skipped if skip.layer == "2")
    assert reason.endswith("(_weight_norm_interface), none of whose entries belongs to one unit alone")


@pytest.mark.parametrize("groups", [1, 2])
def test_the_length_of_the_kernels_of_a_channel_reads_it_in_a_transposed_convolution(groups):
    upsample = parametrizations.weight_norm(nn.ConvTranspose1d(6, 4, 4, 2, 1, groups=groups))
    layers = [nn.Conv1d(3, 6, 3), nn.LeakyReLU(), upsample, nn.LeakyReLU(), nn.Conv1d(4, 2, 3)]
    (group,) = found(nn.Sequential(*layers), torch.randn(2, 3, 8))
    assert (group.name, group.size, group.coupled) == ("0", 6, False)
    (slot,) = group.outgoing
    assert (names([slot]), slot.dims, slot.index[0].flatten().tolist()) == (["original0"], (0,), [*range(6)])


def test_weight_normed_convolutions_in_groups_are_followed_back():
    norm = parametrizations.weight_norm
    layers = [
        norm(nn.Conv2d(3, 4, 3)),
        nn.ReLU(),
        norm(nn.Conv2d(4, 6, 3, groups=2)),
        nn.ReLU(),
        norm(nn.Conv2d(6, 2, 1)),
    ]
    units = found(nn.Sequential(*layers), torch.randn(2, 3, 6, 6))
    assert [(group.name, group.size, group.coupled) for group in units] == [("0", 4, True), ("2", 6, True)]
    assert units["0"].outgoing[0].path == "2.parametrizations.weight.original1"


def test_a_weight_used_as_it_is_and_computed_from_has_both_rows_as_one_unit():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.last((self.middle(x) + F.linear(x, self.middle.weight.tanh())).relu())

    units = found(Model())
    assert [(group.name, group.size) for group in units] == [("first", 8), ("middle", 6)]
    assert [slot.path for slot in units["middle"].slots] == ["middle.weight", "middle.bias", "last.weight"]


def test_a_computed_weight_used_in_two_orientations_is_refused_as_tied():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight * 2
            return F.linear(F.linear(x, weight).relu(), weight.t())

    units = found(Model())
    assert len(units) == 0
    assert units.skipped[0].reason == "it is tied: its rows are columns in another place"


class HalfPrecision(nn.Module):
    """Two hidden layers that compute in half precision, the first with rows of a few weights."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(inputs, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.second(self.first(x).relu())
        return self.head(x.float().relu())


@pytest.mark.parametrize("inputs", [1, 2])
def test_short_rows_in_half_precision_are_found_whatever_the_weights(inputs):
    missed = []
    for seed in range(20):
        torch.manual_seed(seed)
        units = discover_units(HalfPrecision(inputs), torch.randn(8, inputs))
        if [(group.name, group.size) for group in units] != [("first", 16), ("second", 16)]:
            missed.append(seed)
    assert not missed


def test_rows_of_very_different_lengths_are_found():
    units = found(with_weight(Computed(lambda w: w * torch.logspace(-6, 0, 6)[:, None])))
    assert [(group.name, group.size) for group in units] == [("0", 8), ("2", 6)]


def test_a_part_that_becomes_infinite_with_another_is_not_taken_for_one_that_remains():
    units = found(with_weight(Computed(lambda w: w * (1 + 1 / w[:, :1].abs()))))
    assert [group.name for group in units] == ["2"]
    assert "set to zero, silences one unit alone" in units.skipped[0].reason


def test_the_parameters_of_the_model_are_not_touched_by_the_experiment():
    model = with_weight(parametrizations.weight_norm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    discover_units(model, X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
