"""Other methods for single groups."""

from __future__ import annotations

import pytest
import torch
from support.small_nets import groups_of, method, mlp, train

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import AtMost, Contribution, Dormancy, KeepMeanOutput, UnitReplacer
from lightning_plasticity.replacement.overrides import method_per_group


def test_the_first_pattern_that_matches_wins_and_the_others_keep_the_common_method():
    groups = groups_of(mlp(4, 5, 5, 5, 2), 4)
    base, first, second = (continual_backprop(rate) for rate in (0.1, 0.2, 0.3))
    assert method_per_group(groups, base, {"2": first, "*2*": second, "4": second}) == [base, first, second]


def test_a_layer_with_a_rate_of_zero_is_left_alone_while_the_others_are_replaced():
    torch.manual_seed(0)
    model = mlp(4, 8, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    quiet = continual_backprop(0.0, 2)
    with UnitReplacer(
        continual_backprop(0.2, 2), groups_of(model, 4), optimizer, overrides={"2": quiet}, seed=0
    ) as replacer:
        train(model, optimizer, torch.randn(20, 6, 4, dtype=torch.float64))
    assert replacer.ages[0].replaced > 10
    assert replacer.ages[1].replaced == 0


def test_a_pattern_that_matches_no_group_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"pattern 'decoder.\*' in `overrides` matches no unit group.*'0'"):
        method_per_group(groups_of(mlp(4, 5, 2), 4), continual_backprop(), {"decoder.*": continual_backprop()})


@pytest.mark.parametrize(
    "other",
    [
        continual_backprop(decay_rate=0.5),
        method(AtMost(0.1), utility=Dormancy()),
        method(AtMost(0.1), KeepMeanOutput(), utility=Contribution(), optimizer_state="fresh"),
        continual_backprop(optimizer_state="keep"),
    ],
)
def test_what_is_measured_cannot_differ_between_groups(other):
    with pytest.raises(InvalidArgumentError, match=r"override for '0' measures .*Override what is selected and edited"):
        method_per_group(groups_of(mlp(4, 5, 2), 4), continual_backprop(), {"0": other})


def test_a_group_may_do_without_an_edit_that_measures():
    base = continual_backprop(keep_mean_output=True)
    assert method_per_group(groups_of(mlp(4, 5, 2), 4), base, {"0": continual_backprop()})[0] == continual_backprop()
