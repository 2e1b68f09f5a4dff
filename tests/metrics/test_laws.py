"""What holds for every metric of features: batches add up, in any order, in any process, alone or in a collection."""

import pickle  # ruff: ignore[suspicious-pickle-import]
import warnings
from itertools import combinations

import matplotlib as mpl
import pytest
import torch
from support.metric_cases import FEATURE_METRICS, activations
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import Running

from lightning_plasticity import functional, metrics

mpl.use("Agg")
every_metric = pytest.mark.parametrize("name", FEATURE_METRICS)


def make(name):
    cls, twin, options = FEATURE_METRICS[name]
    return cls(**options), lambda x: twin(x, **options)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True)


@every_metric
@pytest.mark.parametrize(("samples", "batch"), [(1, 1), (3, 2), (60, 7), (500, 9), (500, 500)])
def test_batches_in_any_order_give_what_the_function_gives_for_all_samples(name, samples, batch):
    metric, twin = make(name)
    x = activations(samples)
    for part in reversed(x.split(batch)):
        metric.update(part)
    assert close(metric.compute(), twin(x))


@every_metric
def test_no_two_metrics_are_the_same(name):
    values = {other: float(make(other)[1](activations())) for other in FEATURE_METRICS}
    same = [
        o for o, value in values.items() if value == values[name] and FEATURE_METRICS[o][0] is FEATURE_METRICS[name][0]
    ]
    assert same == [name]


@every_metric
@pytest.mark.parametrize("positions", ["samples", "mean"])
def test_maps_are_positions_as_samples_or_their_mean(name, positions):
    cls, twin, options = FEATURE_METRICS[name]
    maps = activations(60).reshape(5, 4, 3, 10).movedim(-1, 1)
    rows = maps.movedim(1, -1).reshape(-1, 10) if positions == "samples" else maps.mean((2, 3))
    metric = cls(positions=positions, **options)
    metric.update(maps[:2])
    metric.update(maps[2:])
    assert close(metric.compute(), twin(rows, **options))
    assert close(twin(maps, positions=positions, **options), twin(rows, **options))


@every_metric
def test_forward_gives_the_value_of_the_batch_and_adds_it_to_the_rest(name):
    metric, twin = make(name)
    x = activations(500)
    for batch in x.split(100):
        assert close(metric(batch), twin(batch))
    assert close(metric.compute(), twin(x))


@every_metric
def test_states_merge(name):
    (one, twin), (other, _) = make(name), make(name)
    x = activations()
    one.update(x[:20])
    other.update(x[20:])
    one.merge_state(other)
    assert close(one.compute(), twin(x))
    fresh = make(name)[0]
    fresh.merge_state(one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics does not count a merged state as an update
        assert close(fresh.compute(), twin(x))


@every_metric
def test_pickling_cloning_and_resetting(name):
    metric, twin = make(name)
    x = activations()
    metric.update(x[:30])
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):  # ruff: ignore[suspicious-pickle-usage]
        copy.update(x[30:])
        assert close(copy.compute(), twin(x))
    metric.reset()
    metric.update(x[30:])
    assert close(metric.compute(), twin(x[30:]))
    assert metric.state_dict() == {}
    assert isinstance(hash(metric), int)


@every_metric
def test_casting_the_metric_keeps_its_precision_and_moving_it_keeps_its_state(name):
    metric, twin = make(name)
    x = activations()
    metric.update(x[:30])
    metric = metric.half().float().to("cpu")
    metric.update(x[30:])
    assert close(metric.compute(), twin(x))


@every_metric
def test_the_wrappers_of_torchmetrics_work(name):
    x, y = activations(seed=1), activations(seed=2)
    running, tracker = Running(make(name)[0], window=2), MetricTracker(make(name)[0], maximize=True)
    for batch in (activations(), x, y):
        running.update(batch)
        tracker.increment()
        tracker.update(batch)
    twin = make(name)[1]
    assert close(running.compute(), twin(torch.cat([x, y])))
    assert close(tracker.compute_all(), torch.stack([twin(activations()), twin(x), twin(y)]))


@pytest.mark.parametrize("first", ["random", "zero"])
def test_every_pair_in_one_collection_gives_what_each_gives_alone(first):
    batches = [activations(seed=seed) for seed in range(3)]
    if first == "zero":  # equal first values must not make torchmetrics take one metric for another
        batches[0] = torch.zeros_like(batches[0])
    alone = {}
    for name in FEATURE_METRICS:
        metric, _ = make(name)
        for batch in batches:
            metric.update(batch)
        alone[name] = metric.compute()
    for pair in combinations(FEATURE_METRICS, 2):
        collection = MetricCollection({name: make(name)[0] for name in pair})
        for batch in batches:
            collection.update(batch)
        assert all(close(value, alone[name]) for name, value in collection.compute().items()), pair


def test_a_collection_gives_each_metric_what_it_names():
    features, weights = activations(), torch.full((4, 3), -2.0)
    rank, dormant, magnitude = metrics.EffectiveRank(), metrics.DormantUnitRatio(), metrics.WeightMagnitude()
    collection = MetricCollection({"rank": rank, "dormant": dormant, "weights": magnitude})
    for _ in range(2):  # compute groups are formed at the first update and used at the second
        collection.update(features=features, activations=features, weights=weights)
    values = collection.compute()
    assert close(values["rank"], functional.effective_rank(features))
    assert close(values["dormant"], functional.dormant_unit_ratio(features))
    assert values["weights"] == 2


def test_metrics_of_one_state_share_one_update():
    collection = MetricCollection({name: make(name)[0] for name in FEATURE_METRICS})
    collection.update(activations())
    groups = sorted(sorted(group) for group in collection.compute_groups.values())
    ranks = [
        name for name in FEATURE_METRICS if "rank" in name or name in {"participation_ratio", "duplicate_unit_ratio"}
    ]
    assert sorted(ranks) in groups
    assert ["dead_unit_ratio", "dormant_unit_ratio", "dormant_unit_ratio_half"] in groups
    assert ["active_fraction", "dormant_by_frequency"] in groups
    assert len(groups) == 6


ALL_ZERO = {"dormant_unit_ratio", "dormant_unit_ratio_half", "gradient_dormant_ratio", "dead_unit_ratio"} | {
    "dormant_by_frequency"
}


@every_metric
def test_a_layer_that_is_all_zero_has_rank_zero_and_only_dormant_units(name):
    metric, twin = make(name)
    x = torch.zeros(6, 4)
    metric.update(x)
    expected = 1.0 if name in ALL_ZERO or name == "saturated_wide" else 0.0  # zero is a bound of (0, 2)
    assert metric.compute() == twin(x) == expected


@every_metric
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_reported(name, bad):
    metric, twin = make(name)
    x = activations()
    x[3, 7] = bad
    metric.update(x)
    assert metric.compute().isnan()
    assert twin(x).isnan()


@every_metric
def test_an_empty_batch_changes_nothing(name):
    metric, twin = make(name)
    x = activations()
    metric.update(x[:0])
    metric.update(x)
    metric.update(x[:0])
    assert close(metric.compute(), twin(x))


@every_metric
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_changes_the_value_by_no_more_than_rounding(name, dtype):
    metric, twin = make(name)
    x = activations(200)
    metric.update(x.to(dtype))
    drowned = name == "numerical_rank" and dtype != torch.float32  # the nearly dead unit, in the noise of the others
    assert torch.allclose(metric.compute(), twin(x) - int(drowned), rtol=0.02)
    assert metric.compute().dtype == torch.float64


@every_metric
def test_a_metric_draws_its_curve(name):
    import matplotlib.pyplot as plt

    metric, _ = make(name)
    metric.update(activations())
    _, axes = metric.plot([metric.compute(), metric.compute()])
    assert len(axes.lines[0].get_xdata()) == 2
    plt.close("all")


@every_metric
def test_another_number_of_features_is_refused(name):
    from lightning_plasticity.errors import InvalidArgumentError

    metric, _ = make(name)
    metric.update(torch.ones(3, 4))
    with pytest.raises(InvalidArgumentError, match=r"batch of 5 .* after batches of 4.*one metric per layer"):
        metric.update(torch.ones(3, 5))


@every_metric
def test_without_samples_there_is_no_value(name):
    metric, twin = make(name)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    metric.update(activations()[:0])
    assert metric.compute().isnan()
    assert twin(activations()[:0]).isnan()
