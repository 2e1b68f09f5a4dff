"""What a forward pass may change is put back, in place."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lightning_plasticity.units import restoring


def test_attributes_containers_and_new_layers_are_put_back_with_their_identity():
    model = nn.Sequential(nn.Linear(2, 2))
    model.history, model.count = [1], 0
    history, layers, weight = model.history, model._modules, model[0].weight
    with restoring.attributes_restored(model):
        model.history.append(2)
        model.count, model.late = 1, nn.Linear(2, 2)
        model[0].weight = nn.Parameter(torch.zeros(2, 2))
        model[0].register_forward_hook(print)
        model.train(mode=False)
    assert model.history is history == [1]
    assert model._modules is layers
    assert list(layers) == ["0"]
    assert model[0].weight is weight
    assert (model.count, model.training, len(model[0]._forward_hooks)) == (0, True, 0)


def test_containers_of_tensors_are_compared_by_identity():
    model = nn.Module()
    model.states = [torch.ones(2), torch.ones(2)]
    first, second = model.states
    with restoring.attributes_restored(model):
        model.states.reverse()
    assert model.states[0] is first
    assert model.states[1] is second


def test_values_of_buffers_are_put_back_after_an_error_too():
    model = nn.BatchNorm1d(2)

    def fail():
        with restoring.buffer_values_restored(model):
            model(torch.randn(8, 2) + 5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(model.running_mean, torch.zeros(2))
    assert model.num_batches_tracked == 0


def test_all_global_generators_are_put_back():
    model = nn.Linear(2, 2)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with restoring.random_state_restored(model):
        restoring.seed_everything(3)
        drawn = torch.rand(()), random.gauss(), np.random.rand()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    with restoring.random_state_restored(model):
        restoring.seed_everything(3)
        assert (torch.rand(()), random.gauss(), np.random.rand()) == drawn


def test_the_fused_path_of_attention_is_off_meanwhile_and_on_again():
    with restoring.unfused_attention():
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_compiled_functions_run_as_written_meanwhile():
    from torch._dynamo.utils import counters

    counters.clear()
    double = torch.compile(lambda x: 2 * x)
    with restoring.uncompiled():
        assert double(torch.ones(1)) == 2
    assert not counters["frames"]


def test_nothing_is_imported_for_compiled_functions_that_do_not_exist(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(torch.compiler, "set_stance", None)  # would fail if it were called
    with restoring.uncompiled():
        assert "torch._dynamo" not in sys.modules
