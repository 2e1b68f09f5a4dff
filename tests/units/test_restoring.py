"""What a forward pass may change is put back, in place; so discovery leaves every model exactly as it was found."""

from __future__ import annotations

import random
import sys
from collections import deque

import numpy as np
import pytest
import torch
from support.snapshots import assert_equal, snapshot
from torch import Tensor, nn
from zoo import SPECIMENS, ZOO, make

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import discover_units, restoring

NAMES = [pytest.param(name, marks=[pytest.mark.slow] * SPECIMENS[name].slow) for name in ZOO]


def used(name: str):
    """Return a model of the zoo in the middle of its life: some parts frozen in their mode, gradients, a hook."""
    model, inputs = make(name)
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1
    for number, parameter in enumerate(model.parameters()):
        if number % 2 and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    next(model.children(), model).register_forward_hook(lambda module, args, output: None)
    return model, inputs


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_left_as_it_was_found(name):
    model, inputs = used(name)
    before = snapshot(model)
    discover_units(model, inputs)
    assert_equal(snapshot(model), before)


@pytest.mark.parametrize(
    "name", ["convnet", "dropout", "lstm", "transformer_encoder_layer", "gan_in_a_lightning_module"]
)
def test_a_model_that_fails_on_the_way_is_left_as_it_was_found(name):
    model, inputs = used(name)

    def fail(module: nn.Module, args: tuple, output: object) -> None:
        if model.training:  # the first run, in evaluation mode, went well
            raise KeyError("out of luck")

    for module in model.modules():  # the first of them that is called fails
        module.register_forward_hook(fail)
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"failed on the example in training mode.*KeyError") as caught:
        discover_units(model, inputs)
    assert isinstance(caught.value.__cause__, KeyError)
    assert_equal(snapshot(model), before)


class Untidy(nn.Module):
    """Changes everything that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.state, self.history, self.by_name, self.recent = torch.zeros(2), [], {}, deque(maxlen=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        self.calls = self.calls + 1
        self.state.add_(1)
        self.seen = x
        self.history.append(x)
        self.by_name["x"] = x
        self.recent.append(x)
        noise = torch.rand(()) + random.gauss(0, 1) + np.random.rand()
        return self.last(x + noise)


def test_a_model_that_changes_itself_is_put_back():
    model = Untidy()
    model(torch.randn(3, 4))
    state, history = model.state.clone(), list(model.history)
    before = snapshot(model)
    assert len(discover_units(model, torch.randn(3, 4, generator=torch.Generator()))) == 1
    assert_equal(snapshot(model), before)
    assert torch.equal(model.state, state)
    assert model.history[0] is history[0]
    assert len(model.history) == len(model.recent) == 1


def test_a_model_that_builds_layers_while_it_runs_is_refused_and_not_built():
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), None

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if self.last is None:
                self.last = nn.Linear(x.shape[1], 2)
            return self.last(x)

    model = Late()
    with pytest.raises(UnsupportedModelError, match=r"the forward pass builds: 'last'\..*Remedy: Run the model once"):
        discover_units(model, torch.randn(3, 4))
    assert model.last is None
    model(torch.randn(3, 4))
    assert len(discover_units(model, torch.randn(3, 4))) == 1


class Writes(nn.Module):
    """Changes its own parameters while it runs."""

    def __init__(self, write) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(9, 4, max_norm=0.1), nn.Linear(4, 6), nn.Linear(6, 2)
        self.write = write

    def forward(self, index: Tensor) -> Tensor:
        self.write(self)
        return self.last(self.first(self.table(index)).relu())


def shrink(model):
    with torch.no_grad():
        model.last.weight.mul_(0.5)


WRITES = {
    "max_norm": lambda model: None,
    "clamp": lambda model: model.first.weight.data.clamp_(-0.1, 0.1),
    "copy": lambda model: model.last.weight.data.copy_(torch.zeros(2, 6)),
    "one row": lambda model: model.first.weight.data[2].zero_(),
    "in no_grad": shrink,
    "several at once": lambda model: torch._foreach_mul_([p.data for p in model.parameters()], 0.5),
    "output argument": lambda model: torch.mul(model.first.bias.data, 2, out=model.first.bias.data),
}


@pytest.mark.parametrize("name", WRITES)
def test_parameters_that_the_model_writes_have_their_numbers_and_versions_back(name):
    model = Writes(WRITES[name])
    loss = model.first(torch.randn(3, 4, requires_grad=True)).sum()
    before = snapshot(model)
    assert "first" in [group.name for group in discover_units(model, torch.arange(8).reshape(2, 4))]
    assert_equal(snapshot(model), before)
    loss.backward()  # autograd holds the weight: it would notice


def renormalise(model):
    model.first.weight.data = torch.renorm(model.first.weight.data, 2, 0, 0.3)


def renew(model):
    model.first.weight = nn.Parameter(model.first.weight.clone())


def renormalise_and_fail(model):
    renormalise(model)
    raise KeyError("out of luck")


@pytest.mark.parametrize("exchange", [renormalise, renew, renormalise_and_fail])
def test_exchanged_memory_of_parameters_is_put_back_and_refused_as_such(exchange):
    model = Writes(exchange)
    before = snapshot(model)
    exchanged = r"weights that the forward pass gives other memory: 'first.weight'\. .*Remedy: Write into them"
    with pytest.raises(UnsupportedModelError, match="KeyError" if "fail" in exchange.__name__ else exchanged):
        discover_units(model, torch.arange(8).reshape(2, 4))
    assert_equal(snapshot(model), before)


def test_parameters_in_one_memory_are_put_back_together():
    flat = torch.randn(10)
    model = nn.Module()
    model.one, model.other = nn.Parameter(flat[:4]), nn.Parameter(flat[4:].view(2, 3))
    before = snapshot(model)
    with restoring.parameters_restored(model) as before_write:
        before_write(flat)
        flat.zero_()
        model.one.data = torch.ones(4)
    assert_equal(snapshot(model), before)


def test_only_parameters_that_are_written_are_copied(monkeypatch):
    copied = []

    def clone(storage):
        copied.append(storage.nbytes())
        return torch.UntypedStorage(storage.nbytes()).copy_(storage)

    monkeypatch.setattr(torch.UntypedStorage, "clone", clone)
    example = torch.arange(8).reshape(2, 4)
    model = Writes(lambda model: None)
    discover_units(model, example)
    assert copied == [model.table.weight.nbytes]  # once, though it is written in every run
    model.table.max_norm = None
    discover_units(model, example)
    assert len(copied) == 1


def test_an_autograd_graph_from_before_can_still_be_used():
    model = Untidy()
    loss = model.last(model.first(torch.randn(3, 4))).sum()
    discover_units(model, torch.randn(3, 4))
    loss.backward()
    assert model.first.weight.grad is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_device_and_its_random_numbers_are_left_as_they_were_found():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)).cuda()
    x = torch.randn(3, 4, device="cuda")
    before = snapshot(model)
    (group,) = discover_units(model, x)
    assert_equal(snapshot(model), before)
    assert group.incoming[0].tensor.is_cuda


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
        with restoring.values_restored(model):
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
