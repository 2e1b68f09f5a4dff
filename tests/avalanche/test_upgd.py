"""UPGD in front of a strategy's optimizer, and shrink-and-perturb between its experiences."""

import re

import pytest
import torch
from avalanche.evaluation.metrics import loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from support.avalanche_runs import Growing, benchmark, mlp
from torch import nn

from lightning_plasticity.avalanche import ShrinkAndPerturbPlugin, UPGDPlugin
from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError, UnsupportedOptimizerError
from lightning_plasticity.optim import UPGD, HesScale


def train(plugins, optimizer=None, experiences=2, lr=0.05, model=None, criterion=None):
    torch.manual_seed(7)
    model = mlp() if model is None else model
    runner = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr) if optimizer is None else optimizer(model),
        criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
        train_mb_size=8,
        plugins=plugins,
        evaluator=EvaluationPlugin(loss_metrics(experience=True), loggers=[BaseLogger()]),
    )
    for experience in benchmark(experiences).train_stream:
        runner.train(experience)
    return {name: value.clone() for name, value in model.state_dict().items()}


class NewOptimizer(SupervisedPlugin):
    """Begins every experience with a new optimizer."""

    def before_training_exp(self, strategy, *args, **kwargs):
        strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)


def test_before_sgd_the_plugin_is_the_optimizer_upgd():
    plugin = UPGDPlugin(noise_std=0.01, decay_rate=0.9, seed=3)
    gated = train([plugin])
    whole = train([], lambda m: UPGD(m.parameters(), lr=0.05, weight_decay=0.0, decay_rate=0.9, noise_std=0.01, seed=3))
    plain = train([])
    assert all(torch.equal(gated[name], whole[name]) for name in gated)
    assert not all(torch.equal(gated[name], plain[name]) for name in gated)


def test_per_unit_only_what_writes_units_is_gated():
    gated, plain = train([UPGDPlugin(noise_std=0.0, per="unit")], experiences=1), train([], experiences=1)
    assert not torch.equal(gated["0.weight"], plain["0.weight"])


def test_units_that_are_as_before_keep_their_utilities_in_the_next_experience():
    steps, ends = [], []
    for experiences in (1, 2):
        plugin = UPGDPlugin(noise_std=0.01, per="unit", seed=0)
        train([plugin], experiences=experiences)
        state = plugin.gate.state_dict()
        steps.append({name: part["step"] for name, part in state["units"].items()})
        ends.append(state["noise"]["cpu"])
    assert steps == [{"0": 8, "2": 8}, {"0": 16, "2": 16}]
    assert not torch.equal(*ends)


def test_another_optimizer_goes_on_with_the_utilities_and_the_noise():
    settings = {"noise_std": 0.01, "decay_rate": 0.9, "seed": 3}
    same, other = train([UPGDPlugin(**settings)]), train([NewOptimizer(), UPGDPlugin(**settings)])
    assert all(torch.equal(same[name], other[name]) for name in same)


def test_second_order_utilities_are_those_of_the_optimizer_upgd():
    class Watched(nn.CrossEntropyLoss):
        def forward(self, output, target):
            loss = super().forward(output, target)
            return self.hesscale.watch(loss) if loss.requires_grad else loss

    settings = {"noise_std": 0.01, "decay_rate": 0.9, "seed": 3}
    plugin, criterion = UPGDPlugin(**settings, curvature="hesscale"), Watched()

    def upgd(model):
        criterion.hesscale = HesScale(model)
        return UPGD(model.parameters(), lr=0.05, weight_decay=0.0, curvature=criterion.hesscale, **settings)

    gated, whole, first = train([plugin]), train([], upgd, criterion=criterion), train([UPGDPlugin(**settings)])
    assert all(torch.equal(gated[name], whole[name]) for name in gated)
    assert not all(torch.equal(gated[name], first[name]) for name in gated)


def test_patterns_choose_parameters_and_units():
    everything, plain = train([UPGDPlugin(0.0)], experiences=1), train([], experiences=1)
    chosen = train([UPGDPlugin(0.0, include="*", exclude="4.*")], experiences=1)
    assert not any(torch.equal(chosen[name], everything[name]) for name in ("4.weight", "4.bias"))
    plugin = UPGDPlugin(0.0, per="unit", include="2", example_input=torch.zeros(2, 8))
    units = train([plugin], experiences=1)
    assert list(plugin.gate.state_dict()["units"]) == ["2"]
    assert not torch.equal(units["2.weight"], plain["2.weight"])


def test_only_the_head_can_be_gated_although_it_is_another_one_in_every_experience():
    plugin, model = UPGDPlugin(0.0, include="head.*", seed=0), Growing()
    train([NewOptimizer(), plugin], model=model, experiences=3)
    assert plugin.gate.gated() == {model.head.classifier.weight, model.head.classifier.bias}
    assert plugin.gate.gates.memory[model.head.classifier.weight]["step"] == 8


@pytest.mark.parametrize("include", [None, "*.weight"])
def test_the_parameters_of_a_head_that_grows_are_gated_too(include):
    plugin, model = UPGDPlugin(0.0, include=include, seed=0), Growing()
    train([plugin], model=model, experiences=3)
    steps = {id(p): part["step"] for p, part in plugin.gate.gates.memory.items()}
    found = {name: steps.get(id(parameter)) for name, parameter in model.named_parameters()}
    expected = {"body.0.weight": 24, "body.2.weight": 24, "head.classifier.weight": 8}
    assert {name: found[name] for name in expected} == expected
    assert {bool(found[name]) for name in found if name.endswith("bias")} == {include is None}


def test_a_model_without_units_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"no hidden units in Sequential(.|\n)*`example_input=`"):
        train([UPGDPlugin(per="unit")], model=nn.Sequential(nn.Linear(8, 6)))


def test_frozen_parameters_alone_are_named_in_a_warning():
    model = mlp()
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"UPGDPlugin has nothing to do .*\['0.weight', '0.bias'\] are frozen"):
        train([UPGDPlugin(include="0.*")], model=model, experiences=1)


@pytest.mark.parametrize("noise", ["gaussian", "initialization"])
def test_shrink_and_perturb_acts_before_every_experience_but_the_first(noise):
    shrunk = [train([ShrinkAndPerturbPlugin(0.0, 0.0, noise=noise)], experiences=n, lr=0.0) for n in (1, 2)]
    assert torch.equal(shrunk[0]["0.weight"], mlp()[0].weight.detach())
    assert all((value == 0).all() for value in shrunk[1].values())


@pytest.mark.parametrize(("period", "times"), [(1, 8), (3, 2)])
def test_shrink_and_perturb_after_every_few_steps_multiplies(period, times):
    plugin = ShrinkAndPerturbPlugin(0.5, 0.0, every="step", every_n_steps=period, exclude="2.*")
    weights = train([plugin], experiences=1, lr=0.0)
    assert torch.allclose(weights["0.weight"], mlp()[0].weight.detach() * 0.5**times)
    assert torch.equal(weights["2.weight"], mlp()[2].weight.detach())


def test_the_noise_differs_from_step_to_step_and_repeats_with_the_seed():
    plugins = [lambda: ShrinkAndPerturbPlugin(1.0, 0.1, every="step", seed=1) for _ in range(2)]
    first, second = (train([make()], experiences=1, lr=0.0)["0.weight"] for make in plugins)
    assert torch.equal(first, second)
    spread = (first - mlp()[0].weight.detach()).std().item()
    assert spread == pytest.approx(0.1 * 8**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("plugin", "name", "value"),
    [(UPGDPlugin, "per", "layer"), (UPGDPlugin, "noise_std", "0.1"), (UPGDPlugin, "seed", -1),
     (ShrinkAndPerturbPlugin, "shrink", 2.0), (ShrinkAndPerturbPlugin, "noise_std", None),
     (UPGDPlugin, "protecting", "no"), (UPGDPlugin, "curvature", "ggn_mc"), (UPGDPlugin, "include", 3),
     (ShrinkAndPerturbPlugin, "every_n_steps", 4), (ShrinkAndPerturbPlugin, "exclude", [3]),
     (ShrinkAndPerturbPlugin, "noise", "uniform"), (ShrinkAndPerturbPlugin, "seed", 0.5)],
)  # fmt: skip
def test_values_out_of_range_are_refused_before_any_training(plugin, name, value):
    with pytest.raises(InvalidArgumentError, match=re.escape(f"{name}={value!r}")):
        plugin(**{name: value})


def test_two_plugins_that_gate_the_same_parameters_are_refused_and_those_of_different_ones_are_not():
    train([UPGDPlugin(0.0, include="0.*"), UPGDPlugin(0.0, include="2.*")], experiences=1)
    with pytest.raises(UnsupportedOptimizerError, match="two gates in front of SGD, which share 2 parameters"):
        train([UPGDPlugin(0.0, include="0.*"), UPGDPlugin(0.0)], experiences=1)


def test_an_example_without_need_of_units_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"`example_input` with per='weight'.*per='unit'"):
        UPGDPlugin(example_input=torch.zeros(2, 8))


def test_an_unknown_period_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"every='epoch'.*'experience' or 'step'"):
        ShrinkAndPerturbPlugin(every="epoch")
