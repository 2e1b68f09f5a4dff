"""The laws themselves; see :mod:`lightning_plasticity.testing`."""

from __future__ import annotations

import copy
import pickle  # noqa: S403 - a method has to travel to other processes
import tempfile
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_plasticity.callbacks import UnitReplacement
from lightning_plasticity.replacement import Method, UnitReplacer
from lightning_plasticity.replacement.optimizer.memory import OptimizerMemory, per_element
from lightning_plasticity.testing.runs import (
    MakeModel,
    MakeOptimizer,
    Never,
    Road,
    Steps,
    activation,
    adam,
    demand,
    each_group,
    edit,
    fresh_memory,
    outputs,
    same_state,
    scaled,
    small_mlp,
    step,
    traces,
    train,
    units_for,
)
from lightning_plasticity.units import discover_units


def check_method(
    method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam, *, steps: int = 30
) -> None:
    """Check all laws of this module.

    Args:
        method: The method; it must replace something within ``steps``, or the laws would say nothing.
        make: Returns a model and example inputs.
        optimizer: Returns an optimizer for parameters.
        steps: Optimizer steps of every training run.

    Raises:
        AssertionError: If a law is broken; the message says which and where.

    Example:
        >>> from lightning_plasticity.methods import continual_backprop
        >>> check_method(continual_backprop(replacement_rate=0.1, maturity_threshold=3), steps=8)
    """
    check_plain_data(method)
    check_silent_replacement(method, make)
    check_address(make)
    check_amnesia(make, optimizer)
    check_resume(method, make, optimizer, steps=steps)
    check_no_trace(method, make, optimizer)
    check_idle(method, make, optimizer, steps=steps)
    check_evaluation(method, make, optimizer, steps=steps)
    check_roads(method, make, optimizer, steps=steps)


def check_plain_data(method: Method) -> None:
    """Check that a method pickles, equals its copy and prints its hyper-parameters."""
    twin = pickle.loads(pickle.dumps(method))  # noqa: S301
    demand(twin == method, f"a copy of {method} differs: {twin}")
    demand(repr(twin) == repr(method), f"{method} prints differently after pickling")


def check_silent_replacement(method: Method, make: MakeModel = small_mlp) -> None:
    """Check that editing units that nothing reads keeps the function, unless their group is coupled.

    Both runs draw the same random numbers.
    """
    for model, inputs, group in each_group(make):
        units = torch.arange(group.size)[:: max(1, group.size // 2)]
        for slot in group.outgoing:
            slot.assign(units, 0.0)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            before = outputs(model, inputs)
            edit(method, group, units)
            torch.manual_seed(0)
            after = outputs(model, inputs)
        close = all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(before, after, strict=True))
        demand(close or group.coupled, f"replacing units of {group.name!r} that nothing reads changed the outputs")


def check_address(make: MakeModel = small_mlp) -> None:
    """Check that the incoming numbers of a unit reach its own activation and no other of its group, unless coupled."""
    for model, inputs, group in each_group(make):
        if group.tap is None or group.coupled:
            continue
        before, unit = activation(model, inputs, group), torch.tensor([group.size - 1])
        first = [slot.gather(unit) for slot in group.incoming]
        changed = torch.zeros(group.size, dtype=torch.bool)
        for shift in (3.0, -3.0):  # one of the two wakes a unit that is silent
            for slot, values in zip(group.incoming, first, strict=True):
                slot.assign(unit, values + shift)
            changed |= (activation(model, inputs, group) != before).any(1)
        demand(bool(changed[-1]), f"the incoming slots of the last unit of {group.name!r} do not reach it")
        demand(not changed[:-1].any(), f"the incoming slots of the last unit of {group.name!r} reach other units")


def check_amnesia(make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam) -> None:
    """Check that an optimizer forgets replaced units as if it were new, and nothing else."""
    model, inputs = make()
    stepper = optimizer(model.parameters())
    for _ in range(3):
        step(model, inputs, stepper)
    memory = OptimizerMemory(stepper, "fresh")
    for group in discover_units(model, inputs):
        units = torch.arange(group.size)[::2]
        before = {slot.path: copy.deepcopy(stepper.state.get(slot.tensor, {})) for slot in group.slots}
        memory.forget(group, units)
        for path, tensor in {slot.path: slot.tensor for slot in group.slots}.items():
            mask = torch.zeros_like(tensor, dtype=torch.bool)
            for slot in (slot for slot in group.slots if slot.tensor is tensor):
                slot.assign(units, 1.0, tensor=mask)
            for name, value in per_element(stepper.state.get(tensor, {}), tensor).items():
                where = f"{name!r} of {path!r}"
                fresh = fresh_memory(stepper, name, tensor)
                demand(torch.equal(value[mask], fresh[mask]), f"{where} remembers replaced units")
                demand(torch.equal(value[~mask], before[path][name][~mask]), f"{where} changed for other units")


def check_resume(
    method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam, *, steps: int = 30
) -> None:
    """Check that training saved halfway and resumed equals uninterrupted training bit for bit."""
    whole = train(method, make, optimizer, steps)
    demand(bool(whole.events), f"{method} replaced nothing in {steps} steps")
    half = train(method, make, optimizer, steps // 2)
    resumed = train(method, make, optimizer, steps - steps // 2, half)
    demand(same_state(whole.state, resumed.state), "the resumed run differs from the uninterrupted one")


def check_no_trace(method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam) -> None:
    """Check that after ``detach`` no hook and no attribute is left on model or optimizer."""
    model, inputs = make()
    stepper = optimizer(model.parameters())
    step(model, inputs, stepper)
    before = traces(model, stepper)
    with UnitReplacer(method, units_for(method, model, inputs, stepper), stepper, seed=0):
        demand(traces(model, stepper) != before, "the engine watches nothing")
        step(model, inputs, stepper)
    demand(traces(model, stepper) == before, "the engine left hooks or attributes behind")


def check_idle(
    method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam, *, steps: int = 30
) -> None:
    """Check that a method that never selects a unit trains bit for bit like no method."""
    idle = train(replace(method, selection=Never()), make, optimizer, steps)
    plain = train(None, make, optimizer, steps)
    for part in ("model", "optimizer"):
        demand(same_state(idle.state[part], plain.state[part]), f"watching alone changed the {part}")


def check_evaluation(
    method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam, *, steps: int = 30
) -> None:
    """Check that passes in evaluation mode, or without gradients, change no state."""

    def look(model: nn.Module, inputs: Any) -> None:
        others = scaled(inputs)  # an average would not notice the same inputs again
        model.eval()
        outputs(model, others)
        model.train()
        buffers = copy.deepcopy(dict(model.named_buffers()))
        with torch.no_grad():
            outputs(model, others)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])

    plain, looked_at = (train(method, make, optimizer, steps, between=between) for between in (None, look))
    demand(same_state(plain.state, looked_at.state), "looking at the model changed the training")


def check_roads(
    method: Method, make: MakeModel = small_mlp, optimizer: MakeOptimizer = adam, *, steps: int = 30
) -> None:
    """Check that a Lightning Trainer does bit for bit what a bare loop does."""
    bare = train(method, make, optimizer, steps)
    model, inputs = make()
    module = Road(model, inputs, optimizer)
    callback = UnitReplacement(method, example_input=inputs, seed=0)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            callbacks=[callback],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            **quiet,
        )
        torch.manual_seed(1)
        trainer.fit(module, DataLoader(Steps(steps), batch_size=None, generator=torch.Generator()))
    demand(same_state(bare.state["model"], model.state_dict()), "a Trainer and a bare loop give different weights")
