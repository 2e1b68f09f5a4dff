"""Plasticity metrics appear in Avalanche's loggers under Avalanche's names, with the values of our metrics."""

import re

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger, InteractiveLogger, TensorboardLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from support.avalanche_runs import benchmark, mlp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_plasticity.avalanche import (
    dormant_unit_ratio_metrics,
    effective_rank_metrics,
    intransigence_metrics,
    weight_magnitude_metrics,
)
from lightning_plasticity.errors import InvalidArgumentError


class Memory(BaseLogger):
    """Keeps what would be drawn."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_single_metric(self, name, value, x_plot):
        self.values.setdefault(name, []).append(value)


def run(*metrics, model=None, experiences=2, evaluate=False, logger=None):
    torch.manual_seed(0)  # of the order of the samples
    logger = Memory() if logger is None else logger
    model = mlp() if model is None else model
    runner = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        evaluator=EvaluationPlugin(*metrics, loggers=[logger]),
    )
    stream = benchmark(experiences)
    for experience in stream.train_stream:
        runner.train(experience)
        if evaluate:
            runner.eval(stream.test_stream)
    return model, getattr(logger, "values", None)


METRICS = ("EffectiveRank_Exp/0", "DormantUnitRatio_Exp/0", "WeightMagnitude_Exp/0.weight")


def all_of_them():
    return (
        *effective_rank_metrics(experience=True),
        *dormant_unit_ratio_metrics(experience=True),
        *weight_magnitude_metrics(experience=True),
        *intransigence_metrics(reference=[1.0]),
    )


def test_the_interactive_logger_prints_them(capsys):
    run(*all_of_them(), experiences=1, evaluate=True, logger=InteractiveLogger())
    printed = capsys.readouterr().out
    for name in METRICS:
        assert re.search(rf"{name}/train_phase/train_stream/Exp000 = \d+\.\d+", printed), name
    assert re.search(r"Intransigence_Exp/eval_phase/test_stream/Exp000 = -?\d+\.\d+", printed)


def test_the_tensorboard_logger_draws_them(tmp_path):
    _, values = run(*all_of_them(), experiences=1, evaluate=True)
    run(*all_of_them(), experiences=1, evaluate=True, logger=TensorboardLogger(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    drawn = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(any(tag.startswith(name) for tag in drawn) for name in (*METRICS, "Intransigence_Exp"))
    assert {tag: drawn[tag] for tag in values} == {tag: pytest.approx(value) for tag, value in values.items()}


def test_every_layer_has_a_series_per_period():
    _, values = run(
        *effective_rank_metrics(epoch=True, experience=True), *dormant_unit_ratio_metrics(minibatch=True, stream=True)
    )
    ranks = [name for name in values if name.startswith("EffectiveRank_Exp/")]
    assert ranks == [
        f"EffectiveRank_Exp/{layer}/train_phase/train_stream/Exp{place:03d}" for place in (0, 1) for layer in ("0", "2")
    ]
    assert all(isinstance(value, float) and 1 <= value <= 32 for name in ranks for value in values[name])
    assert len(values["DormantUnitRatio_MB/0/train_phase/train_stream"]) == 16
    assert len(values["DormantUnitRatio_Stream/0/train_phase/train_stream"]) == 2  # once per call of `train`


def test_silent_units_are_counted_as_dormant():
    model = mlp()
    with torch.no_grad():
        model[0].weight[:8] = 0.0
        model[0].bias[:8] = -1.0
    _, values = run(*dormant_unit_ratio_metrics(experience=True), model=model, experiences=1)
    assert values["DormantUnitRatio_Exp/0/train_phase/train_stream/Exp000"][0] >= 8 / 32


def test_weight_magnitude_is_that_of_the_trained_weights():
    model, values = run(*weight_magnitude_metrics(experience=True), experiences=1)
    expected = float(model[0].weight.detach().abs().mean())
    assert values["WeightMagnitude_Exp/0.weight/train_phase/train_stream/Exp000"] == [expected]


def test_intransigence_is_the_gap_to_the_reference():
    metrics = (*intransigence_metrics(reference=[0.9, 0.8]), *accuracy_metrics(experience=True))
    _, values = run(*metrics, evaluate=True)
    for place, reference in enumerate((0.9, 0.8)):
        accuracy = next(v for n, v in values.items() if n.startswith("Top1_Acc_Exp") and n.endswith(f"Exp{place:03d}"))
        gap = values[f"Intransigence_Exp/eval_phase/test_stream/Exp{place:03d}"]
        assert gap[0] == pytest.approx(reference - accuracy[place])


def test_a_reference_that_is_too_short_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"a reference of 1 accuracies in experience 1.*one accuracy per"):
        run(*intransigence_metrics(reference=[0.9]), evaluate=True)


@pytest.mark.parametrize("make", [effective_rank_metrics, dormant_unit_ratio_metrics, weight_magnitude_metrics])
def test_metrics_that_would_never_be_logged_are_refused(make):
    with pytest.raises(InvalidArgumentError, match=r"never emitted.*minibatch, epoch, experience, stream.*experience="):
        make()
    with pytest.raises(InvalidArgumentError, match=r"epoch='yes'.*True or False"):
        make(epoch="yes")


def test_a_reference_that_is_no_list_of_accuracies_is_refused_at_once():
    with pytest.raises(InvalidArgumentError, match=r"reference=0.9.*one accuracy per experience"):
        intransigence_metrics(reference=0.9)
    with pytest.raises(InvalidArgumentError, match=r"reference\[1\]=90.*in \[0, 1\]"):
        intransigence_metrics(reference=[0.9, 90])


def test_a_threshold_out_of_range_is_refused_at_once():
    with pytest.raises(InvalidArgumentError, match=r"threshold='a'.*in \[0, inf\)"):
        dormant_unit_ratio_metrics(threshold="a", epoch=True)
