"""The callbacks of the methods: a typed constructor each."""

from __future__ import annotations

import inspect

import pytest
from support.training_runs import Classifier, loader, trainer

from lightning_plasticity import methods
from lightning_plasticity.callbacks import (
    ContinualBackprop,
    RandomReplacement,
    ReDo,
    ReGraMa,
    SelfNormalizedResets,
    UnitReplacement,
)
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import AdaptableContribution, Contribution, KeepMeanOutput, Random

CALLBACKS = {
    "continual_backprop": ContinualBackprop,
    "random_replacement": RandomReplacement,
    "redo": ReDo,
    "regrama": ReGraMa,
    "self_normalized_resets": SelfNormalizedResets,
}
NAMES = [
    "contribution",
    "zero_contribution",
    "adaptable_contribution",
    "adaptation",
    "weight_magnitude",
    "activation",
    "deviation_by_input",
    "gradient",
    "fisher",
    "random",
]


@pytest.mark.parametrize("name", methods.__all__)
def test_a_callback_makes_its_method_with_the_same_defaults(name):
    assert CALLBACKS[name]().method == getattr(methods, name)()


@pytest.mark.parametrize("name", methods.__all__)
def test_a_callback_takes_every_argument_of_its_method(name):
    assert (
        inspect.signature(getattr(methods, name)).parameters.keys()
        <= inspect.signature(CALLBACKS[name]).parameters.keys()
    )


@pytest.mark.parametrize("name", methods.__all__)
def test_a_named_callback_is_the_generic_one_with_a_constructor_and_nothing_else(name):
    own = {key for key in vars(CALLBACKS[name]) if not key.startswith("__")}
    assert issubclass(CALLBACKS[name], UnitReplacement)
    assert own <= {"_abc_impl"}


@pytest.mark.parametrize("utility", NAMES)
def test_every_named_utility_trains_and_replaces(utility, tmp_path):
    callback = ContinualBackprop(0.2, 2, 0.9, utility=utility)
    trainer(tmp_path, callbacks=[callback], max_steps=6).fit(Classifier(), loader())
    assert sum(ages.replaced for ages in callback.replacer.ages) > 0


def test_the_default_utility_is_the_papers_and_the_decay_goes_with_the_name():
    assert ContinualBackprop(decay_rate=0.5).method.utility == Contribution(0.5)
    assert ContinualBackprop(decay_rate=0.5, utility="adaptable_contribution").method.utility == AdaptableContribution(
        0.5
    )
    assert ContinualBackprop(utility="random").method.utility == Random()


def test_an_unknown_utility_is_refused_with_the_known_ones():
    with pytest.raises(
        InvalidArgumentError, match=r"utility='contribtuion'.*'adaptable_contribution'.*UnitReplacement"
    ):
        ContinualBackprop(utility="contribtuion")


def test_overrides_change_single_layers():
    callback = ContinualBackprop(
        1e-3, 50, overrides={"net.0": {"replacement_rate": 0.1}, "net.*": {"maturity_threshold": 7}}
    )
    assert callback.overrides == {"net.0": continual_backprop(0.1, 50), "net.*": continual_backprop(1e-3, 7)}
    callback = ContinualBackprop(keep_mean_output=True, overrides={"net.2": {"keep_mean_output": False}})
    assert not any(isinstance(edit, KeepMeanOutput) for edit in callback.overrides["net.2"].edits)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda o: ContinualBackprop(overrides=o), {"rate": 0.1}),
        (lambda o: ContinualBackprop(overrides=o), {"decay_rate": 0.1}),
        (lambda o: ContinualBackprop(overrides=o), {"utility": "random"}),
        (lambda o: ReDo(overrides=o), {"replacement_rate": 0.1}),
        (lambda o: SelfNormalizedResets(overrides=o), {"prior_weight": 1.0}),
    ],
)
def test_an_override_that_is_unknown_or_shared_by_all_layers_is_refused_and_not_ignored(make, found):
    with pytest.raises(
        InvalidArgumentError, match=rf"overrides\['net.0'\] with the arguments \['{next(iter(found))}'\]"
    ):
        make({"net.0": found})


def test_a_value_out_of_range_in_an_override_is_refused_at_once():
    with pytest.raises(InvalidArgumentError, match="replacement_rate=3"):
        RandomReplacement(overrides={"*": {"replacement_rate": 3}})


def test_an_unknown_argument_is_refused_and_not_ignored():
    with pytest.raises(TypeError, match="mt"):
        ContinualBackprop(mt=10)


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_overrides_that_are_no_arguments_are_refused_with_an_example(callback):
    with pytest.raises(InvalidArgumentError, match=r"overrides\['net.0'\]=0.1.*by name.*Write \{'net.0': \{'"):
        callback(overrides={"net.0": 0.1})
    with pytest.raises(InvalidArgumentError, match=r"overrides=\['net.0'\].*arguments by pattern"):
        callback(overrides=["net.0"])


def test_a_method_for_single_layers_is_a_method():
    with pytest.raises(InvalidArgumentError, match=r"overrides=\['net.0'\].*methods by pattern"):
        UnitReplacement(methods.redo(), overrides=["net.0"])
    with pytest.raises(InvalidArgumentError, match=r"a method of type dict.*such as continual_backprop\(\)"):
        UnitReplacement(methods.redo(), overrides={"net.0": {"threshold": 0.1}})


@pytest.mark.parametrize(
    "callback",
    [ReDo(0.9, 3), ReGraMa(0.9, 3), SelfNormalizedResets(0.5, prior_weight=1.0), RandomReplacement(0.2, 2)],
    ids=lambda callback: type(callback).__name__,
)
def test_every_method_trains_in_a_trainer(callback, tmp_path):
    model = Classifier()
    trainer(tmp_path, callbacks=[callback], max_steps=6).fit(model, loader())
    assert all(ages.step == 6 for ages in callback.replacer.ages)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_all_arguments_can_be_given_in_a_config_file(tmp_path):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    for callback in CALLBACKS.values():
        parser.add_class_arguments(callback, callback.__name__)
    config = parser.parse_object(
        {
            "ContinualBackprop": {
                "utility": "fisher",
                "initializer": "orthogonal",
                "overrides": {"net.0": {"replacement_rate": 0.01}},
            },
            "ReDo": {"overrides": {"*": {"threshold": 0.5}}},
        }
    )
    made = parser.instantiate(config)
    assert made.ContinualBackprop.overrides["net.0"].selection.replacement_rate == pytest.approx(0.01)
    assert made.ReDo.overrides["*"].selection == methods.redo(0.5).selection
