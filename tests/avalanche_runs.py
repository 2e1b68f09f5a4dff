"""A small benchmark and a small network for the tests of the Avalanche floor."""

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from torch import nn
from torch.utils.data import TensorDataset


class LabelledTensors(TensorDataset):
    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()


def benchmark(experiences=3, classes=2, size=64):
    generator = torch.Generator().manual_seed(0)
    datasets = []
    for place in range(experiences):
        x = torch.randn(size, 8, generator=generator)
        y = torch.randint(classes, (size,), generator=generator) + place * classes
        datasets.append(as_classification_dataset(LabelledTensors(x, y)))
    return benchmark_from_datasets(train=datasets, test=datasets)


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 6))
