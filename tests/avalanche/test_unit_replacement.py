"""The plugins do in a strategy what the engine does in a bare loop."""

import inspect

import pytest
import torch
from avalanche.evaluation.metrics import loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training import EWC, Cumulative, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from support.avalanche_runs import Growing, benchmark, mlp
from torch import nn

from lightning_plasticity import UnitReplacer, callbacks, discover_units
from lightning_plasticity.avalanche import (
    ContinualBackpropPlugin,
    ReDoPlugin,
    ShrinkAndPerturbPlugin,
    UnitReplacementPlugin,
    UPGDPlugin,
)
from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.methods import continual_backprop

RATE, MATURITY = 0.02, 5


def strategy(kind, model, plugins, **kwargs):
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        plugins=plugins,
        evaluator=EvaluationPlugin(loss_metrics(experience=True), loggers=[BaseLogger()]),
        **kwargs,
    )


class Recorder(nn.CrossEntropyLoss):
    """Remembers the targets it was asked about."""

    def __init__(self):
        super().__init__()
        self.targets = []

    def forward(self, output, target):
        self.targets.append(target.clone())
        return super().forward(output, target)


def test_weights_equal_those_of_a_bare_loop_with_the_engine():
    inside, criterion, batches = mlp(), Recorder(), []
    runner = strategy(Naive, inside, [ContinualBackpropPlugin(RATE, MATURITY, seed=3)])
    runner._criterion = criterion
    inside.register_forward_pre_hook(
        lambda m, args: batches.append(args[0].clone()) if torch.is_grad_enabled() else None
    )
    for experience in benchmark().train_stream:
        runner.train(experience)

    outside = mlp()
    optimizer = torch.optim.SGD(outside.parameters(), lr=0.05, momentum=0.9)
    units = discover_units(outside, batches[0])
    with UnitReplacer(continual_backprop(RATE, MATURITY), units, optimizer, seed=3) as replacer:
        for x, y in zip(batches, criterion.targets, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(outside(x), y).backward()
            optimizer.step()

    assert sum(ages.replaced for ages in replacer.ages) > 5
    for name, value in outside.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name


@pytest.mark.parametrize("kind", [Naive, Replay, EWC, Cumulative])
def test_units_are_replaced_inside_the_strategies(kind):
    plugin = ContinualBackpropPlugin(RATE, MATURITY)
    extra = {Replay: {"mem_size": 16}, EWC: {"ewc_lambda": 0.1}}.get(kind, {})
    runner = strategy(kind, mlp(), [plugin], **extra)
    for experience in benchmark().train_stream:
        runner.train(experience)
    steps = runner.clock.train_iterations
    assert [ages.step for ages in plugin.replacer.ages] == [steps, steps]
    assert all(ages.replaced > 0 for ages in plugin.replacer.ages)


def test_a_growing_head_keeps_the_ages_of_the_other_layers_and_is_not_touched():
    plugin = ContinualBackpropPlugin(RATE, MATURITY)
    model = Growing()
    runner = strategy(Naive, model, [plugin])
    steps = []
    for experience in benchmark().train_stream:
        runner.train(experience)
        steps.append([ages.step for ages in plugin.replacer.ages])
    assert steps == [[16, 16], [32, 32], [48, 48]]
    assert {group.name for group in plugin.replacer.groups} == {"body.0", "body.2"}
    assert model.head.classifier.out_features == 6


class Watcher(SupervisedPlugin):
    """Remembers, at both ends of an experience, the body's momentum and what the engine remembers of the units."""

    def __init__(self, plugin):
        super().__init__()
        self.plugin, self.at_start, self.at_end = plugin, [], []

    def now(self, strategy):
        momentum = [strategy.optimizer.state[p].get("momentum_buffer") for p in strategy.model.body.parameters()]
        groups = self.plugin.replacer.state_dict()["groups"].values()
        memories = [tensor for group in groups for tensor in group["memory"].values()]
        return [None if tensor is None else tensor.clone() for tensor in (*momentum, *memories)]

    def before_training_iteration(self, strategy, *_, **__):
        if len(self.at_start) == len(self.at_end):
            self.at_start.append(self.now(strategy))

    def after_training_exp(self, strategy, *_, **__):
        self.at_end.append(self.now(strategy))


def test_a_growing_head_leaves_momentum_and_utilities_of_the_other_layers_alone():
    plugin, model = ContinualBackpropPlugin(RATE, MATURITY), Growing()
    watcher = Watcher(plugin)
    runner = strategy(Naive, model, [plugin, watcher])
    for experience in benchmark().train_stream:
        runner.train(experience)
    assert model.head.classifier.out_features == 6
    for ended, started in zip(watcher.at_end[:-1], watcher.at_start[1:], strict=True):
        assert len(ended) > 4
        assert all(torch.equal(a, b) and a.abs().sum() > 0 for a, b in zip(ended, started, strict=True))


def test_nothing_is_left_on_the_model_after_an_experience():
    runner = strategy(Naive, mlp(), [ContinualBackpropPlugin(RATE, MATURITY)])
    runner.train(benchmark(1).train_stream[0])
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in runner.model.modules())
    assert not runner.optimizer._optimizer_step_post_hooks


def test_with_rate_zero_the_weights_are_those_without_the_plugin():
    weights = []
    for plugins in ([], [ContinualBackpropPlugin(0.0, MATURITY)]):
        torch.manual_seed(5)
        runner = strategy(Naive, mlp(), plugins)
        for experience in benchmark().train_stream:
            runner.train(experience)
        weights.append({name: value.clone() for name, value in runner.model.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_redo_recycles_units_that_are_silent():
    plugin, model = ReDoPlugin(threshold=0.1, every_n_steps=4), mlp()
    with torch.no_grad():
        model[0].weight[:5] = 0.0
        model[0].bias[:5] = -1.0
    strategy(Naive, model, [plugin]).train(benchmark(1).train_stream[0])
    assert plugin.replacer.ages[0].replaced >= 5


def test_a_saved_state_goes_on():
    first = UnitReplacementPlugin(continual_backprop(RATE, MATURITY), seed=0)
    runner = strategy(Naive, mlp(), [first])
    stream = benchmark().train_stream
    runner.train(stream[0])
    second = UnitReplacementPlugin(continual_backprop(RATE, MATURITY), seed=0)
    second.restored = first.replacer.state_dict()
    strategy(Naive, runner.model, [second]).train(stream[1])
    assert [ages.step for ages in second.replacer.ages] == [32, 32]


def test_a_model_without_hidden_units_is_refused_by_name():
    runner = strategy(Naive, nn.Sequential(nn.Linear(8, 6)), [ContinualBackpropPlugin(RATE, MATURITY)])
    with pytest.raises(UnsupportedModelError, match=r"no hidden units in Sequential(.|\n)*`example_input=`"):
        runner.train(benchmark(1).train_stream[0])


def test_layers_may_differ_and_utilities_have_names():
    overrides = {"body.2": {"replacement_rate": 0.0}}
    plugin = ContinualBackpropPlugin(RATE, MATURITY, utility="random", overrides=overrides, seed=0)
    strategy(Naive, Growing(), [plugin]).train(benchmark(2).train_stream[0])
    assert [type(each.utility).__name__ for each in plugin.replacer.methods] == ["Random"] * 2
    assert [each.selection.replacement_rate for each in plugin.replacer.methods] == [RATE, 0.0]


def test_events_go_on_in_the_next_experience():
    plugin = ContinualBackpropPlugin(RATE, MATURITY, record_events=True, seed=0)
    runner = strategy(Naive, mlp(), [plugin])
    for experience in benchmark(2).train_stream:
        runner.train(experience)
    assert sum(len(event.units) for event in plugin.events) == sum(ages.replaced for ages in plugin.replacer.ages) > 0


@pytest.mark.parametrize(
    ("callback", "plugin", "only"),
    [
        (callbacks.UnitReplacement, UnitReplacementPlugin, set()),
        (callbacks.ContinualBackprop, ContinualBackpropPlugin, set()),
        (callbacks.ReDo, ReDoPlugin, set()),
        (callbacks.UPGDPerturbation, UPGDPlugin, {"when"}),  # Avalanche does not clip
        (callbacks.ShrinkAndPerturb, ShrinkAndPerturbPlugin, set()),
    ],
)
def test_callbacks_and_plugins_take_the_same_arguments(callback, plugin, only):
    ours, theirs = (inspect.signature(each).parameters for each in (plugin, callback))
    assert list(ours) == [name for name in theirs if name not in only]
    assert all(ours[name].default == theirs[name].default for name in ours)


def test_what_is_no_method_is_refused_when_the_plugin_is_built():
    with pytest.raises(InvalidArgumentError, match=r"a method of type ContinualBackprop.*`method`"):
        UnitReplacementPlugin(callbacks.ContinualBackprop())
    with pytest.raises(InvalidArgumentError, match=r"a method of type dict"):
        UnitReplacementPlugin(continual_backprop(), overrides={"0": {"replacement_rate": 1e-3}})
