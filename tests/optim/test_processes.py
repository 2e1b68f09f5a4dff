"""Two processes: equal noise without being told a seed, averaged curvature, and so equal weights."""

import pytest
import torch
from support.processes import on_two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_plasticity.optim import UPGD, AdaUPGD, HesScale, UtilityGate

pytestmark = pytest.mark.ddp
X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(8) % 3


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def optimizers(model):
    hesscale = HesScale(model)
    return {
        "UPGD": (lambda: UPGD(model.parameters(), lr=0.1, noise_std=0.1), None),
        "AdaUPGD": (lambda: AdaUPGD(model.parameters(), lr=0.1, noise_std=0.1), None),
        "second order": (lambda: UPGD(model.parameters(), lr=0.1, noise_std=0.1, curvature=hesscale), hesscale),
        "gate": (lambda: torch.optim.SGD(model.parameters(), lr=0.1), None),
    }


def train(kind, wrap, x, y, seed):
    model = make()
    build, hesscale = optimizers(model)[kind]
    torch.manual_seed(seed)  # the noise is seeded from here
    optimizer, network = build(), wrap(model)
    gate = UtilityGate(optimizer, noise_std=0.1).attach() if kind == "gate" else None
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(network, x, y)
        (loss if hesscale is None else hesscale.watch(loss)).backward()
        optimizer.step()
    assert gate is None or gate.state_dict()["weights"][0]["step"] == 5
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def work(rank, kind):
    half = slice(4 * rank, 4 * rank + 4)
    return train(kind, DistributedDataParallel, X[half], Y[half], seed=100 + rank).tolist()


@pytest.mark.parametrize("kind", ["UPGD", "AdaUPGD", "second order", "gate"])
def test_two_processes_with_half_of_the_batch_each_train_like_one_with_all_of_it(kind, tmp_path):
    ends = on_two_processes(work, tmp_path, kind)
    assert ends[0] == ends[1]
    whole = train(kind, lambda model: model, X, Y, seed=100)  # the seed of process 0
    torch.testing.assert_close(torch.tensor(ends[0], dtype=torch.float64), whole, rtol=1e-9, atol=1e-12)
