import weakref

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_plasticity.streams import (
    ClassPairs,
    GrowingClasses,
    PermutedInputs,
    PermutedLabels,
    SlowlyChangingRegression,
    StreamDataModule,
    class_incremental,
    class_pairs,
    input_permuted,
    label_permuted,
    slowly_changing_regression,
)
from lightning_plasticity.streams.benchmark import lazy_benchmark
from lightning_plasticity.streams.lazy import RelabelledDataset


@pytest.fixture
def images():
    return TensorDataset(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize(
    ("constructor", "stream"), [(input_permuted, PermutedInputs), (label_permuted, PermutedLabels)]
)
def test_a_benchmark_holds_the_experiences_of_its_stream(images, constructor, stream):
    benchmark = constructor(images, 800, test=images, samples_per_experience=3, seed=5)
    expected = stream(images, 800, samples_per_experience=3, seed=5)
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == 800
    for place in (0, 799):
        experience = benchmark.train_stream[place]
        assert experience.current_experience == place
        assert list(experience.dataset.targets) == expected[place].targets
        for (x, y), (expected_x, expected_y) in zip(experience.dataset, expected[place], strict=True):
            assert torch.equal(x, expected_x)
            assert y == expected_y
        assert len(benchmark.test_stream[place].dataset) == 6


def test_training_and_test_inputs_are_permuted_alike(images):
    benchmark = input_permuted(images, 3, test=images, seed=1)
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(train.dataset, test.dataset, strict=True))


def test_a_benchmark_without_test_data_has_no_test_stream(images):
    assert set(input_permuted(images, 3).streams) == {"train"}


@pytest.mark.filterwarnings("ignore:No loggers specified:UserWarning")
def test_a_strategy_of_avalanche_trains_and_evaluates_on_it(images):
    from avalanche.training import Naive

    model = torch.nn.Linear(4, 3)
    before = model.weight.clone()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=2,
        evaluator=None,
    )
    benchmark = input_permuted(images, 2, test=images)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    strategy.eval(benchmark.test_stream)
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("preload", [False, True])
def test_a_stream_of_avalanche_runs_in_one_fit(images, trainer, recorder, preload):
    benchmark = input_permuted(TensorDataset(images.tensors[0][:, :2], images.tensors[1]), 4)
    datamodule = StreamDataModule(benchmark.train_stream, batch_size=3, preload=preload)
    module = recorder(datamodule)
    trainer(max_epochs=datamodule.num_epochs).fit(module, datamodule=datamodule)
    assert [k for k, _ in module.seen] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_task_labels_are_dropped_unless_wanted(images):
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute

    dataset = AvalancheDataset([images], data_attributes=[DataAttribute([7] * 6, "task", use_in_getitem=True)])
    stream = benchmark_from_datasets(train=[dataset]).train_stream
    assert len(stream[0].dataset[0]) == 3
    for preload in (False, True):
        two = next(iter(StreamDataModule(stream, batch_size=6, preload=preload).train_dataloader()))
        three = next(iter(StreamDataModule(stream, batch_size=6, task_labels=True, preload=preload).train_dataloader()))
        assert len(two) == 2
        assert [field.shape for field in three] == [(6, 4), (6,), (6,)]
        assert three[2].tolist() == [7] * 6


def test_class_benchmarks_hold_the_same_classes_in_training_and_test(images):
    shuffled = TensorDataset(images.tensors[0].flip(0), images.tensors[1].flip(0))
    for benchmark, stream in (
        (class_incremental(images, 1, test=shuffled, seed=3), GrowingClasses(images, 1, seed=3)),
        (class_pairs(images, 3, test=shuffled, seed=3), ClassPairs(images, 3, seed=3)),
    ):
        assert len(benchmark.train_stream) == len(benchmark.test_stream) == 3
        for place, (train, test) in enumerate(zip(benchmark.train_stream, benchmark.test_stream, strict=True)):
            assert list(train.dataset.targets) == stream[place].targets == list(test.dataset.targets)[::-1]
            assert torch.equal(train.dataset[0][0], test.dataset[len(test.dataset) - 1][0])


def test_a_regression_benchmark_has_real_targets_and_runs_in_one_fit(trainer):
    benchmark = slowly_changing_regression(800, 5, seed=2)
    expected = SlowlyChangingRegression(800, 5, seed=2)
    for place in (0, 799):
        for (x, y), (expected_x, expected_y) in zip(
            benchmark.train_stream[place].dataset, expected[place], strict=True
        ):
            assert torch.equal(x, expected_x)
            assert torch.equal(y, expected_y)
    datamodule = StreamDataModule(benchmark.train_stream[:3], batch_size=1, preload=True, shuffle=False)
    x, y = next(iter(datamodule.train_dataloader()))
    assert (x.shape, y.shape) == ((1, 20), (1, 1))


def data_bytes(dataset):
    """What an experience has beside the data that all of them share."""
    tensors = dataset.tensors if isinstance(dataset, TensorDataset) else ()
    lists = (dataset.indices, dataset.targets) if isinstance(dataset, RelabelledDataset) else ()
    return sum(t.nbytes for t in tensors) + sum(8 * len(one) for one in lists)


@pytest.mark.parametrize(
    "make",
    [
        lambda images: PermutedInputs(images, 800),
        lambda images: PermutedLabels(images, 800),
        lambda images: ClassPairs(images, 800),
        lambda images: SlowlyChangingRegression(800, 6),
    ],
)
def test_eight_hundred_experiences_take_the_memory_of_a_few(images, make, monkeypatch):
    stream = make(images)
    alive, built, peak = weakref.WeakSet(), 0, 0
    build = stream.build

    def watched(place):
        nonlocal built, peak
        dataset = build(place)
        alive.add(dataset)
        built += 1
        peak = max(peak, sum(data_bytes(each) for each in alive))
        return dataset

    monkeypatch.setattr(stream, "build", watched)
    one = data_bytes(build(0))
    benchmark = lazy_benchmark(stream)
    assert built == 0
    for place in range(0, 800, 32):  # the later one lies, the longer a drift takes to get there
        assert len(benchmark.train_stream[place].dataset) == len(build(0))
    assert built == 25
    assert one <= peak <= 3 * one


def test_the_experiences_of_a_datamodule_are_let_go(images, trainer, recorder):
    stream = PermutedInputs(TensorDataset(images.tensors[0][:, :2], images.tensors[1]), 40)
    alive, peaks, build = weakref.WeakSet(), [], stream.build

    def watched(place):
        dataset = build(place)
        alive.add(dataset)
        peaks.append(len(alive))
        return dataset

    stream.build = watched
    datamodule = StreamDataModule(stream, batch_size=6, preload=True)
    trainer(max_epochs=40).fit(recorder(datamodule), datamodule=datamodule)
    assert len(peaks) >= 40
    assert max(peaks) <= 2
