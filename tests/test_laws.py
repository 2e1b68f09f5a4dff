"""The laws, over models, methods and optimizers; and that each law can be broken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import zoo
from support.training_runs import convnet
from torch import nn

from lightning_plasticity import testing
from lightning_plasticity.methods import (
    continual_backprop,
    random_replacement,
    redo,
    regrama,
    self_normalized_resets,
)
from lightning_plasticity.replacement import Contribution, LowestMature, Method, RedrawIncoming, ZeroOutgoing
from lightning_plasticity.testing.runs import small_mlp

METHODS = {
    "continual_backprop": continual_backprop(0.1, 3),
    "zeroed_moments": replace(continual_backprop(0.1, 3), optimizer_state="zero"),
    "every_third_step": replace(continual_backprop(0.3, 3), every_n_steps=3),
    "redo": redo(0.8, 3),
    "regrama": regrama(0.8, 3),
    "random_replacement": random_replacement(0.1, 3),
    "self_normalized_resets": self_normalized_resets(0.3, firing_threshold=1.0),
}
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}
SPECIMENS = ("mlp_without_bias", "dropout", "mlp_batch_norm", "mlp_layer_norm", "prelu", "grouped_conv", "vae")
STEPS = 14


def conv() -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        return convnet(), torch.randn(6, 2, 4, 4)


MODELS = {"mlp": small_mlp, "conv": conv, **{name: lambda name=name: zoo.make(name) for name in SPECIMENS}}


@pytest.mark.parametrize("model", MODELS)
def test_continual_backprop_obeys_the_laws_on_every_model(model):
    testing.check_method(METHODS["continual_backprop"], MODELS[model], steps=STEPS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_obeys_the_laws(method):
    testing.check_method(METHODS[method], steps=STEPS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_replaces_silently_behind_a_flatten_and_a_norm(method):
    testing.check_silent_replacement(METHODS[method], conv)
    testing.check_resume(METHODS[method], conv, steps=STEPS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_laws_hold_under_every_optimizer(optimizer):
    testing.check_method(METHODS["continual_backprop"], optimizer=OPTIMIZERS[optimizer], steps=STEPS)


# ------------------------------------------------------------------------------------------- laws that can be broken


@dataclass(frozen=True)
class Spill:
    """An edit that spoils: it writes into units that were not replaced."""

    statistics: ClassVar[tuple[()]] = ()

    def prepare(self, group):
        return {}

    def __call__(self, replacement):
        for slot in replacement.group.incoming:
            slot.assign(torch.arange(slot.size), 0.5)


class Forgetful:
    """An edit with a state of its own, which no checkpoint knows."""

    statistics = ()

    def __init__(self):
        self.calls = 0

    def prepare(self, group):
        return {}

    def __call__(self, replacement):
        self.calls += 1
        for slot in replacement.group.incoming:
            slot.assign(replacement.units, 0.1 * self.calls)


@dataclass(frozen=True)
class Noisy(Contribution):
    """A utility that draws from the generator of all."""

    def observe(self, state, reading):
        torch.rand(())


class Loose(Contribution):
    """A utility that does not pickle."""

    def __reduce__(self):
        return (Contribution, (0.123,))


def method(**parts) -> Method:
    whole = {
        "utility": Contribution(0.9),
        "selection": LowestMature(0.1, 3),
        "edits": (RedrawIncoming(), ZeroOutgoing()),
    }
    return Method(**{**whole, **parts})


@pytest.mark.parametrize(
    ("law", "broken", "message"),
    [
        (testing.check_plain_data, method(utility=Loose(0.9)), "a copy of .* differs"),
        (testing.check_silent_replacement, method(edits=(Spill(),)), r"replacing units of '0' that nothing reads"),
        (testing.check_resume, method(selection=LowestMature(0.0)), "replaced nothing in 30 steps"),
        (testing.check_resume, method(edits=(Forgetful(),)), "the resumed run differs"),
    ],
)
def test_a_law_notices_who_breaks_it(law, broken, message):
    with pytest.raises(AssertionError, match=message):
        law(broken)


def test_the_law_of_idleness_notices_a_utility_that_draws_from_the_generator_of_all():
    with pytest.raises(AssertionError, match="watching alone changed the model"):
        testing.check_idle(method(utility=Noisy(0.9)), MODELS["dropout"])


def test_the_law_of_one_address_notices_units_that_mix():
    class Mixed(nn.Linear):
        """Adds the last unit to the first, behind the back of whoever looks at its weights."""

        def forward(self, x):
            y = super().forward(x)
            return y + torch.nn.functional.pad(y[:, -1:].detach(), (0, y.shape[1] - 1)) * (not self.found)

    def make():
        model, inputs = small_mlp()
        layer = Mixed(4, 12)
        layer.load_state_dict(model[0].state_dict())
        layer.found = True
        layer.register_forward_hook(lambda module, args, output: setattr(module, "found", False))
        model[0] = layer
        return model, inputs

    with pytest.raises(AssertionError, match=r"the incoming slots of the last unit of '2' reach other units"):
        testing.check_address(make)


def test_the_law_of_evaluation_notices_an_engine_that_listens_always():
    class Always(nn.Linear):
        """A layer that trains even in evaluation mode."""

        def train(self, mode=True):
            return super().train(True)

    def make():
        model, inputs = small_mlp()
        layer = Always(12, 10)
        layer.load_state_dict(model[2].state_dict())
        model[2] = layer
        return model, inputs

    with pytest.raises(AssertionError, match="looking at the model changed the training"):
        testing.check_evaluation(METHODS["continual_backprop"], make)
