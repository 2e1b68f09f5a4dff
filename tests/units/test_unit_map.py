"""What a map says to people, what it refuses, and how it follows a model that changes."""

from __future__ import annotations

import copy
import pickle  # noqa: S403 - our own objects
from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_plasticity import UnitMap, UnitReplacer, discover_units, verify_units
from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnknownGroupError,
    UnsupportedModelError,
)
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.units.unit_map import checked_groups


def chain(*widths):
    return nn.Sequential(*[step for pair in pairwise(widths) for step in (nn.Linear(*pair), nn.ReLU())][:-1])


@pytest.fixture
def model():
    return chain(4, 6, 5, 2)


@pytest.fixture
def units(model):
    return discover_units(model, torch.randn(3, 4))


def names(units):
    return [group.name for group in units]


def test_a_map_contains_its_groups_and_their_names(units):
    assert "0" in units
    assert units["0"] in units
    assert "1" not in units


# ------------------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(("include", "exclude"), [(["0"], None), ("0", None), (None, ["2"]), (None, "2"), ("?", "2")])
def test_patterns_choose_groups_alone_or_in_a_list(units, include, exclude):
    chosen = units.select(include, exclude)
    assert names(chosen) == ["0"]
    assert chosen.skipped[-1].layer == "2"


def test_a_pattern_that_matches_nothing_is_refused(units):
    with pytest.raises(
        InvalidArgumentError, match=r"pattern 'encoder\.\*' in `include` matches no unit group.*\['0', '2'\]"
    ):
        units.select("encoder.*")


def test_a_pattern_that_means_a_layer_without_units_is_refused_with_the_reason(model):
    model[0].requires_grad_(False)
    with pytest.raises(InvalidArgumentError, match=r"'0' in `include` matches no unit group \(.0.: its weight is froz"):
        discover_units(model, torch.randn(3, 4)).select("0")
    with pytest.raises(InvalidArgumentError, match=r"no unit group \('4': it reaches the output of the model\)"):
        discover_units(model, torch.randn(3, 4)).select(exclude="4")


def test_patterns_that_leave_nothing_are_refused(units):
    with pytest.raises(InvalidArgumentError, match=r"which leave no unit group.*some of \['0', '2'\]"):
        units.select(exclude=["*"])


def test_a_map_is_bound_to_nothing_but_a_model(units):
    with pytest.raises(InvalidArgumentError, match=r"model of type NoneType.*an nn.Module"):
        units.update(None)


@pytest.mark.parametrize("value", [nn.Linear(2, 2), None, "0", [], [nn.Linear(2, 2)], {}, 3])
def test_what_holds_no_groups_is_refused_in_place_of_units(value):
    with pytest.raises(InvalidArgumentError, match=r"units(=| of type ).*a UnitMap, or a sequence.*`discover_units"):
        checked_groups(value)


def test_groups_are_taken_from_a_map_or_a_sequence(units):
    assert checked_groups(units) == checked_groups(list(units)) == units.groups


def test_a_map_without_groups_is_refused_with_the_reason_of_every_layer():
    empty = discover_units(chain(4, 2), torch.randn(3, 4))
    with pytest.raises(
        UnsupportedModelError, match=r"no hidden units in Sequential:\n(.|\n)*skipped 0: (.|\n)*, or else"
    ):
        checked_groups(empty, otherwise=", or else")


def test_the_map_of_a_model_that_has_changed_is_refused_in_place_of_units(model, units):
    model[0] = nn.Linear(4, 6)
    with pytest.raises(StateMismatchError, match=r"'0.bias', '0.weight'.*units.update"):
        checked_groups(units)


def test_a_group_is_found_by_its_name_and_others_are_named_if_it_is_not_there(units):
    assert units["2"].size == 5
    with pytest.raises(
        UnknownGroupError, match=r"^Found: units\['4'\].*have names: \['0', '2'\].*`for group in units`"
    ):
        units["4"]


@pytest.mark.parametrize("key", [0, -1, None, slice(1)])
def test_a_position_is_refused_since_groups_have_names(units, key):
    with pytest.raises(KeyError, match=r"^Found: units\[.*names: \['0', '2'\]\. Remedy: .*`units\.groups\[0\]`"):
        units[key]


def test_of_many_groups_some_are_named_and_of_none_that_there_is_none():
    many = discover_units(chain(4, *[2] * 14, 2), torch.randn(3, 4))
    with pytest.raises(UnknownGroupError, match=r"\['0', .*'20', \.\.\., '26'\] \(14 in all\)\. Remedy"):
        many["x"]
    with pytest.raises(UnknownGroupError, match=r"this one has none.*`units.summary\(\)`"):
        discover_units(chain(4, 2), torch.randn(3, 4))["0"]


# ------------------------------------------------------------------------------------------------------------ summary


def test_the_summary_has_a_line_per_group_one_with_the_totals_and_one_per_reason(units):
    lines = units.select(include="0").summary().splitlines()
    assert [line.split()[0] for line in lines] == ["group", "0", "1", "skipped", "skipped"]
    assert lines[2] == "1 group, 6 units, 77.9% of all weights"
    assert "skipped 4: it reaches the output of the model" in lines


def test_layers_with_the_same_reason_share_a_line():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            h = self.hidden(x).relu()
            return self.a(h), self.b(h)

    summary = discover_units(TwoHeads(), torch.randn(3, 4)).summary()
    assert "skipped a, b: it reaches the output of the model" in summary


def test_the_summary_marks_what_is_coupled_residual_and_not_observed():
    layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=9, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 2))
    lines = discover_units(model, torch.randn(2, 3, 6), residual="group").summary().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1.self_attn", "1.linear1"]
    assert lines[1].endswith("  coupled, residual")
    assert lines[2].endswith("  not observed")
    assert lines[3].endswith("  1.linear2")


def test_the_short_form_counts(units):
    assert repr(units) == "UnitMap(2 groups, 11 units, 1 skipped)"
    assert str(units) == units.summary()


# ----------------------------------------------------------------------------------------------------------- coverage


def test_coverage_counts_every_entry_that_some_unit_owns_once(units):
    own = (4 * 6 + 6) + (6 * 5 + 5) + 5 * 2  # all but the bias of the output
    assert units.coverage == pytest.approx(own / (own + 2))


def test_coverage_of_a_part_counts_its_rows_biases_and_columns(units):
    first = (4 * 6 + 6) + 6 * 5
    assert units.select(include="0").coverage == pytest.approx(first / (30 + 35 + 12))


def test_coverage_of_a_packed_projection_counts_the_values_only():
    attention = nn.MultiheadAttention(6, 2, bias=False, batch_first=True)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    units = discover_units(Model(), torch.randn(2, 3, 6))
    assert names(units) == ["attention"]
    rows_of_values = columns_of_the_output = 36
    assert units.coverage == pytest.approx((rows_of_values + columns_of_the_output) / (3 * 36 + 36))


def test_coverage_leaves_out_what_is_frozen_or_unused_and_what_is_no_parameter():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    unused = nn.ModuleDict({"used": model, "not": nn.Linear(10, 10, bias=False)})
    units = discover_units(unused, lambda: model(torch.ones(3, 4)))
    assert units.coverage == pytest.approx((40 + 16 + 16) / (40 + 16 + 18 + 100))
    model[0].requires_grad_(False)
    assert discover_units(model, torch.ones(3, 4)).coverage == pytest.approx(0.0)


def test_coverage_of_a_model_without_parameters_is_zero():
    assert discover_units(nn.ReLU(), torch.ones(3)).coverage == pytest.approx(0.0)


# ------------------------------------------------------------------------------------------------------------- update


def test_an_unpickled_map_is_the_same_map_once_it_is_bound(model, units):
    lost = pickle.loads(pickle.dumps(units))  # noqa: S301
    assert lost.summary() == units.summary()
    assert lost.coverage == units.coverage
    found = lost.update(model)
    assert found.model is model
    assert names(found) == names(units)
    for group, other in zip(found, units, strict=True):
        assert [slot.tensor for slot in group.slots] == [slot.tensor for slot in other.slots]
        assert group.tap.module is other.tap.module


def test_a_map_is_loaded_as_weights_are(model, units, tmp_path):
    torch.save({"units": units, "model": model.state_dict()}, tmp_path / "run.pt")
    lost = torch.load(tmp_path / "run.pt", weights_only=True)["units"]
    assert lost.summary() == units.summary()
    assert verify_units(model, torch.randn(3, 4), lost.update(model))


def test_a_map_is_bound_to_a_copy_whatever_wraps_it(model, units):
    twin = copy.deepcopy(model)
    assert units.update(torch.compile(twin))["0"].incoming[0].tensor is twin[0].weight
    assert units["0"].incoming[0].tensor is model[0].weight


def test_a_head_may_grow(model, units):
    model[4] = nn.Linear(5, 7)
    updated = units.update(model)
    assert names(updated) == names(units)
    assert updated["2"].outgoing[0].tensor is model[4].weight
    assert updated.shapes["4.weight"] == (7, 5)
    updated["2"].outgoing[0].assign(torch.tensor([1]), 0.0)
    assert not model[4].weight[:, 1].any()
    assert model[4].weight[:, 0].any()


def test_a_layer_may_be_exchanged_for_one_of_the_same_shape(model, units):
    model[2] = nn.Linear(6, 5)
    updated = units.update(model)
    assert updated["2"].incoming[0].tensor is model[2].weight
    assert updated["0"].outgoing[0].tensor is model[2].weight


@pytest.mark.parametrize(
    "use",
    [
        lambda model, units: units.check_bound(),
        lambda model, units: verify_units(model, torch.randn(3, 4), units),
        lambda model, units: UnitReplacer(continual_backprop(), units, torch.optim.SGD(model.parameters())),
    ],
    ids=["check", "proof", "engine"],
)
def test_a_map_that_points_to_a_layer_that_was_exchanged_is_refused(model, units, use):
    model[4] = nn.Linear(5, 7)
    with pytest.raises(StateMismatchError, match=r"\['4.weight'\].*no longer part of the model.*units = units.update"):
        use(model, units)


def test_a_layer_that_no_longer_fits_is_an_error_that_names_it(model, units):
    model[2] = nn.Linear(6, 9)
    expected = r"'2\.weight' has shape \[9, 6\], but the 5 units of '2' were found in \[5, 6\].*discover_units\(model"
    with pytest.raises(StateMismatchError, match=expected):
        units.update(model)


def test_a_convolution_in_the_place_of_a_linear_layer_does_not_fit(model, units):
    model[2] = nn.Conv1d(6, 5, 1)
    with pytest.raises(StateMismatchError, match=r"'2\.weight' has shape \[5, 6, 1\]"):
        units.update(model)


def test_a_layer_that_is_gone_is_an_error_that_names_it(model, units):
    with pytest.raises(StateMismatchError, match=r"'4\.weight' is gone"):
        units.update(model[:4])


def test_a_bias_that_is_gone_is_an_error_that_names_it(model, units):
    model[0] = nn.Linear(4, 6, bias=False)
    with pytest.raises(StateMismatchError, match=r"'0\.bias' is gone"):
        units.update(model)


def test_a_new_layer_is_an_error_since_nobody_knows_what_it_reads(model, units):
    model.append(nn.Linear(2, 2))
    with pytest.raises(StateMismatchError, match=r"'5\.weight' is new, and may read or write units"):
        units.update(model)


def test_a_part_of_a_map_still_knows_which_layers_are_new(model, units):
    part = units.select(include="0")
    model.append(nn.Linear(2, 2))
    with pytest.raises(StateMismatchError, match=r"'5\.weight' is new"):
        part.update(model)


def test_a_channel_that_owns_several_columns_must_own_as_many_as_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    units = discover_units(model, torch.randn(2, 3, 6, 6))
    model[2] = nn.Linear(64, 5)
    assert units.update(model)["0"].outgoing[0].features == 16
    model[2] = nn.Linear(36, 2)
    with pytest.raises(StateMismatchError, match=r"'2\.weight' has shape \[2, 36\]"):
        units.update(model)


def test_a_map_without_groups_can_be_updated():
    model = nn.Linear(3, 2)
    assert len(UnitMap(model, ()).update(copy.deepcopy(model))) == 0
