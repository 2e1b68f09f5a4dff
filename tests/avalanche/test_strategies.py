"""Every plugin acts inside the strategies that people use, beside the plugins that those bring along."""

from functools import partial

import pytest
import torch
from avalanche.evaluation.metrics import loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training import EWC, Cumulative, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin
from support.avalanche_runs import benchmark, mlp
from torch import nn

from lightning_plasticity.avalanche import (
    ContinualBackpropPlugin,
    ReDoPlugin,
    ShrinkAndPerturbPlugin,
    UnitReplacementPlugin,
    UPGDPlugin,
)
from lightning_plasticity.methods import self_normalized_resets

STRATEGIES = {
    "naive": Naive,
    "replay": partial(Replay, mem_size=16),
    "ewc": partial(EWC, ewc_lambda=0.1),
    "cumulative": Cumulative,
}
PLUGINS = {
    "continual backprop": partial(ContinualBackpropPlugin, 0.02, 5, seed=0),
    "redo": partial(ReDoPlugin, 0.9, 4, seed=0),
    "another method": lambda: UnitReplacementPlugin(self_normalized_resets(), seed=0),
    "upgd": partial(UPGDPlugin, 0.01, seed=0),
    "shrink and perturb": partial(ShrinkAndPerturbPlugin, 0.9, 0.01, seed=0),
}


def train(strategy, *plugins):
    torch.manual_seed(4)
    model = mlp()
    runner = STRATEGIES[strategy](
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loss_metrics(experience=True), loggers=[BaseLogger()]),
    )
    for experience in benchmark(2).train_stream:
        runner.train(experience)
    return runner.clock.train_iterations, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("plugin", list(PLUGINS))
def test_a_plugin_acts_inside_a_strategy(strategy, plugin):
    plain_steps, plain = train(strategy)
    made = PLUGINS[plugin]()
    steps, weights = train(strategy, made)
    assert steps == plain_steps
    assert all(value.isfinite().all() for value in weights.values())
    if isinstance(made, UnitReplacementPlugin):
        assert [ages.step for ages in made.replacer.ages] == [steps, steps]
    if plugin != "another method":  # in so few steps no unit is silent for longer than it ever was
        assert any(not torch.equal(weights[name], plain[name]) for name in plain)
