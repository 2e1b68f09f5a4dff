"""Metrics merge over processes, also over one that has seen nothing."""

import warnings

import pytest
import torch
from support.metric_cases import FEATURE_METRICS, activations
from support.processes import on_two_processes

from lightning_plasticity.metrics import AreaUnderCurve, OnlineAccuracy, WeightMagnitude, WeightNorm

pytestmark = pytest.mark.ddp


def work(rank, samples_of_rank):
    warnings.simplefilter("ignore")  # a process without data is told so by torchmetrics
    x = activations(120)
    part = x[:samples_of_rank] if rank == 0 else x[samples_of_rank:]
    metrics = {name: cls(**options) for name, (cls, _, options) in FEATURE_METRICS.items()}
    values = {}
    for name, metric in metrics.items():
        for batch in part.split(25) if len(part) else []:
            metric.update(batch)
        values[name] = [metric.compute()]
        if samples_of_rank < len(x):  # both processes forget the computed value; their own states must be as before
            metric.update(part[:0])
            values[name].append(metric.compute())
    others = {
        "magnitude": WeightMagnitude(),
        "norm": WeightNorm(),
        "online": OnlineAccuracy(),
        "area": AreaUnderCurve(),
    }
    others["magnitude"].update(x)
    others["norm"].update(x)
    others["online"].update(torch.tensor([rank, 1]), torch.tensor([1, 1]))
    others["area"].update(float(rank), rank)
    values |= {name: (metric.compute(),) for name, metric in others.items()}
    return {name: [float(value) for value in pair] for name, pair in values.items()}


@pytest.mark.parametrize("samples_of_rank", [50, 120])
def test_two_processes_give_what_one_gives_for_all_samples(tmp_path, samples_of_rank):
    values, of_the_other = on_two_processes(work, tmp_path, samples_of_rank)
    assert values == of_the_other
    x = activations(120)
    expected = {name: float(twin(x, **options)) for name, (_, twin, options) in FEATURE_METRICS.items()}
    expected |= {"magnitude": float(x.abs().mean()), "norm": float(x.norm()), "online": 0.75, "area": 0.5}
    for name, found in values.items():
        assert found == pytest.approx([expected[name]] * len(found), rel=1e-9), name
