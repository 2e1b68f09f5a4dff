"""A small benchmark and a small network for the tests of the Avalanche floor."""

from types import SimpleNamespace

import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.models import IncrementalClassifier
from torch import nn
from torch.utils.data import TensorDataset


class LabelledTensors(TensorDataset):
    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()


def benchmark(experiences=3):
    """A class-incremental benchmark of six classes: 64 samples of two classes in every experience."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(192, 8, generator=generator), torch.arange(192) % 6
    data = as_classification_dataset(LabelledTensors(x, y))
    whole = class_incremental_benchmark({"train": data, "test": data}, num_experiences=3, class_order=list(range(6)))
    return SimpleNamespace(train_stream=whole.train_stream[:experiences], test_stream=whole.test_stream[:experiences])


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 6))


class Growing(nn.Module):
    """An MLP whose head grows with the classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.head = IncrementalClassifier(16, initial_out_features=2)

    def forward(self, x):
        return self.head(self.body(x))
