"""A step without a replacement never waits for the device."""

from __future__ import annotations

import pytest
import torch
from support.training_runs import data, mlp
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.units import discover_units

WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_to_copy", "masked_select", "unique"}


class Operations(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer, batch):
    inputs, targets = batch
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def operations(model, optimizer, batches):
    with Operations() as seen:
        for batch in batches:
            step(model, optimizer, batch)
    return seen.names


def engine(model, optimizer, maturity_threshold):
    method = continual_backprop(0.5, maturity_threshold)
    return UnitReplacer(method, discover_units(model, torch.randn(2, 6)), optimizer)


@pytest.mark.parametrize("micro", [10, 1])
def test_a_step_without_a_replacement_runs_no_operation_that_waits_for_its_result(micro):
    batches = [(inputs[:micro], targets[:micro]) for inputs, targets in data(5)]
    model = mlp()
    optimizer = sgd(model)
    plain = operations(model, optimizer, batches)
    with engine(model, optimizer, 100):
        step(model, optimizer, batches[0])  # the first one finds out what can be known beforehand
        treated = operations(model, optimizer, batches)
    assert len(treated) > len(plain)
    assert not WAITING & set(treated)


def test_one_with_a_replacement_does_wait_so_the_test_above_would_notice():
    model = mlp()
    optimizer = sgd(model)
    with engine(model, optimizer, 1):
        assert WAITING & set(operations(model, optimizer, data(4)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for():
    model = mlp().cuda()
    optimizer = sgd(model)
    batches = [(inputs.cuda(), targets.cuda()) for inputs, targets in data(5)]
    method = continual_backprop(0.5, 100)
    with UnitReplacer(method, discover_units(model, torch.randn(2, 6, device="cuda")), optimizer):
        step(model, optimizer, batches[0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                step(model, optimizer, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
