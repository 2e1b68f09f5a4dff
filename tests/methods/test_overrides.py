"""Methods for single layers are made from the arguments of all, and from those that differ."""

import pytest

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods.overrides import methods_by_layer
from lightning_plasticity.methods.redo import PER_LAYER, redo
from lightning_plasticity.methods.utility_names import utility_named
from lightning_plasticity.replacement import Contribution, Random


def test_what_does_not_differ_is_that_of_all():
    overrides = {"a.*": {"threshold": 0.5}, "b": {"every_n_steps": 7}}
    method, others = methods_by_layer(redo, {"threshold": 0.1, "every_n_steps": 3}, overrides, per_layer=PER_LAYER)
    assert method == redo(0.1, 3)
    assert others == {"a.*": redo(0.5, 3), "b": redo(0.1, 7)}
    assert list(others) == ["a.*", "b"]


@pytest.mark.parametrize("overrides", [None, {}])
def test_without_overrides_there_is_one_method(overrides):
    assert methods_by_layer(redo, {}, overrides, per_layer=PER_LAYER) == (redo(), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"a": {"rate": 1}}, r"overrides\['a'\] with the arguments \['rate'\].*may differ.*'threshold'.*Correct"),
        ({"a": {"optimizer_state": "keep"}}, r"'optimizer_state'.*out of `overrides`"),
        ({"a": {"every_n_steps": 0}}, r"every_n_steps=0.*in \[1, inf\)"),
        ({"a": 0.1}, r"overrides\['a'\]=0.1.*by name.*Write \{'a': \{'threshold': ...\}\}"),
        (["a"], r"overrides=\['a'\].*arguments by pattern"),
    ],
)
def test_overrides_that_cannot_be_followed_are_refused(overrides, message):
    with pytest.raises(InvalidArgumentError, match=message):
        methods_by_layer(redo, {}, overrides, per_layer=PER_LAYER)


def test_utilities_have_names():
    assert utility_named("contribution", 0.9) == Contribution(0.9)
    assert utility_named("random", 0.9) == Random()
    with pytest.raises(InvalidArgumentError, match=r"utility='best'.*'contribution'.*UnitReplacement"):
        utility_named("best", 0.9)
