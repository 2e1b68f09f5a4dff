"""Every baseline does beside Continual Backprop what it does alone, and the other way round."""

from functools import partial

import pytest
import torch
from support.stream_runs import Network, Saver, fit

from lightning_plasticity.callbacks import (
    ContinualBackprop,
    L1Regularization,
    L2Regularization,
    RegenerativeRegularization,
    ShrinkAndPerturb,
)
from lightning_plasticity.callbacks.best_weights import BestWeights
from lightning_plasticity.callbacks.layer_reset import FromScratch, LayerReset
from lightning_plasticity.callbacks.optimizer_reset import OptimizerReset
from lightning_plasticity.callbacks.schedule_restart import ScheduleRestart

BASELINES = {
    "head reset": partial(LayerReset, "net.3", seed=0),
    "from scratch": partial(FromScratch, seed=0),
    "optimizer reset": OptimizerReset,
    "L2": partial(L2Regularization, 1e-1),
    "L1": partial(L1Regularization, 1e-2),
    "regenerative": partial(RegenerativeRegularization, 1e-1),
    "shrink and perturb": partial(ShrinkAndPerturb, 0.5, 0.1, seed=0),
    "noise in every step": partial(ShrinkAndPerturb, 1.0, 0.01, every="step", seed=0),
    "best weights": partial(BestWeights, "score"),
    "schedule restart": ScheduleRestart,
}
STEPS = 12


def run(*callbacks, **arguments):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = Network(partial(torch.optim.SGD, momentum=0.9), schedule)
    module.scores = [0.9, 0.1, 0.2, 0.8, 0.7, 0.3]
    return fit(module, *callbacks, **arguments).snapshot()


def replacement(rate):
    return ContinualBackprop(rate, maturity_threshold=1, seed=0)


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_beside_a_replacement_rate_of_zero_is_the_baseline(name):
    plain, alone = run(), run(BASELINES[name]())
    assert not equal(alone, plain)
    assert equal(run(replacement(0.0), BASELINES[name]()), alone)


@pytest.mark.parametrize("name", list(BASELINES))
def test_units_are_replaced_beside_a_baseline_and_a_resumed_run_is_the_same(name, tmp_path):
    engine = replacement(0.3)
    whole = run(engine, BASELINES[name](), Saver(tmp_path))
    assert [ages.step for ages in engine.replacer.ages] == [STEPS]
    assert all(ages.replaced > 0 for ages in engine.replacer.ages)
    assert not equal(whole, run(BASELINES[name]()))
    assert equal(whole, run(replacement(0.3), BASELINES[name](), ckpt_path=tmp_path / "2.ckpt"))


def test_all_baselines_work_together():
    engine = replacement(0.3)
    weights = run(engine, *(make() for name, make in BASELINES.items() if name != "noise in every step"))
    assert [ages.step for ages in engine.replacer.ages] == [STEPS]
    assert all(value.isfinite().all() for value in weights.values())
