"""Training runs that the laws compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.replacement import Method, Replacement, ReplacementEvent, UnitReplacer
from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.memory import Memory
from lightning_plasticity.replacement.refusals import treatable
from lightning_plasticity.units import UnitGroup, UnitMap, discover_units

MakeModel: TypeAlias = Callable[[], tuple[nn.Module, Any]]
"""Returns a model in training mode and example inputs: a tensor, a tuple of positional or a dict of keyword arguments.

It must return the same model at every call, so seed what it draws from.
"""
MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]


def small_mlp() -> tuple[nn.Module, Any]:
    """Return a network with two hidden layers and a batch for it, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 2))
        return model, torch.randn(16, 4)


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return Adam with a learning rate of 0.01."""
    return torch.optim.Adam(parameters, lr=0.01)


def demand(condition: bool, message: str) -> None:
    """Raise an :class:`AssertionError` unless ``condition`` holds; an ``assert`` would vanish under ``python -O``.

    Args:
        condition: What must hold.
        message: What was found instead.

    Raises:
        AssertionError: If it does not.
    """
    if not condition:
        raise AssertionError(message)


@dataclass(frozen=True)
class Run:
    """What a training run leaves: nested plain states, and what was replaced."""

    state: dict[str, Any]
    events: list[ReplacementEvent]


@dataclass(frozen=True)
class Never:
    """A selection that never selects."""

    def due(self, ages: Ages, generator: torch.Generator) -> int:
        """Return 0."""
        return 0

    def choose(self, score: Tensor, due: int, ages: Ages, generator: torch.Generator) -> Tensor:
        """Return no unit."""
        return torch.empty(0, dtype=torch.int64)


def train(
    method: Method | None,
    make: MakeModel,
    optimizer: MakeOptimizer,
    steps: int,
    start: Run | None = None,
    between: Callable[[nn.Module, Any], None] | None = None,
) -> Run:
    """Train in a bare loop.

    Args:
        method: The method; None trains without one.
        make: Returns the model and its inputs.
        optimizer: Returns the optimizer.
        steps: Optimizer steps.
        start: A run to continue.
        between: Called before every step with the model and its inputs.

    Returns:
        The run.
    """
    model, inputs = make()
    stepper = optimizer(model.parameters())
    engine = (
        None if method is None else UnitReplacer(method, units_for(method, model, inputs, stepper), stepper, seed=0)
    )
    events: list[ReplacementEvent] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if start is not None:
            state = copy.deepcopy(start.state)
            model.load_state_dict(state["model"])
            stepper.load_state_dict(state["optimizer"])
            if engine is not None:
                engine.load_state_dict(state["engine"])
            torch.set_rng_state(state["random"])
        if engine is not None:
            engine.listeners.append(events.append)
            engine.attach()
        for _ in range(steps):
            if between is not None:
                with torch.random.fork_rng(devices=[]):
                    between(model, inputs)
            step(model, inputs, stepper)
        if engine is not None:
            engine.detach()
        state = {
            "model": model.state_dict(),
            "optimizer": stepper.state_dict(),
            "engine": None if engine is None else engine.state_dict(),
            "random": torch.get_rng_state(),
        }
    return Run(copy.deepcopy(state), events)


def units_for(method: Method, model: nn.Module, inputs: Any, optimizer: Optimizer) -> UnitMap:
    """Return the units that a callback would treat: those that are trained, and observed if the method observes."""
    return treatable(discover_units(model, inputs), (optimizer,), method.statistics)


def step(model: nn.Module, inputs: Any, optimizer: Optimizer) -> None:
    """Make one optimizer step."""
    optimizer.zero_grad()
    loss(model, inputs).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def loss(model: nn.Module, inputs: Any) -> Tensor:
    """Return a loss that every output takes part in."""
    return torch.stack([(output - 1).square().mean() for output in outputs(model, inputs)]).sum()


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return the floating point tensors that a model returns, wherever they are in what it returns."""
    return [*_tensors(call(model, inputs))]


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on a tensor, a tuple of positional or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def each_group(make: MakeModel) -> Iterable[tuple[nn.Module, Any, UnitGroup]]:
    """Return the model in double precision and evaluation mode, its inputs and every group, untouched for each."""
    model, inputs = make()
    model, inputs = model.double().eval(), _floating(inputs, Tensor.double)
    before = copy.deepcopy(model.state_dict())
    for group in discover_units(model, inputs):
        model.load_state_dict(before)
        yield model, inputs, group


def scaled(inputs: Any) -> Any:
    """Return inputs three times as large; whole numbers stay."""
    return _floating(inputs, lambda tensor: tensor * 3)


def _floating(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {key: _floating(part, change) for key, part in inputs.items()}
    return tuple(_floating(part, change) for part in inputs) if isinstance(inputs, tuple) else inputs


def activation(model: nn.Module, inputs: Any, group: UnitGroup) -> Tensor:
    """Return the activation of a group, ``[U, N]``: all that is read of each unit, with the same random numbers."""
    tap = group.tap
    if tap is None:
        raise AssertionError(f"{group.name!r} is not observed")
    seen: list[Tensor] = []
    handle: RemovableHandle = tap.watch(lambda tensor: seen.append(tap.samples(tensor.detach())))
    with handle, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        call(model, inputs)
    return torch.cat(seen)[:, tap.index].movedim(0, -1).flatten(1)


def edit(method: Method, group: UnitGroup, units: Tensor) -> None:
    """Apply all edits of a method to units of a group."""
    state, score = Memory([group], method.fields()).parts[0], torch.arange(group.size).double()
    for each in method.edits:
        held = each.prepare(group)
        each(Replacement(group, units, score, state, held, torch.Generator().manual_seed(0)))


def fresh_memory(optimizer: Optimizer, name: str, tensor: Tensor) -> Tensor:
    """Return what a new optimizer remembers of a parameter under ``name``: 0 but for three that start elsewhere."""
    options = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.ASGD) and name == "ax":
        return tensor.detach()
    if isinstance(optimizer, torch.optim.Rprop) and name == "step_size":
        return torch.full_like(tensor, options["lr"])
    if isinstance(optimizer, torch.optim.Adagrad) and name == "sum":
        return torch.full_like(tensor, options["initial_accumulator_value"])
    return torch.zeros_like(tensor)


def traces(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    """Return what hooks and attributes a model and an optimizer have."""
    found: list[Any] = [sorted(vars(optimizer)), len(optimizer._optimizer_step_post_hooks)]
    for module in model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found.append((sorted(vars(module)), [list(each) for each in hooks]))
    return found


class Steps(Dataset[int]):
    """As many items as there are steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> int:
        return index


class Road(pl.LightningModule):
    """The same training in Lightning."""

    def __init__(self, model: nn.Module, inputs: Any, optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.model, self.inputs, self.optimizer = model, inputs, optimizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self.model(*args, **kwargs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return loss(self.model, self.inputs)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer."""
        return self.optimizer(self.parameters())


def same_state(left: Any, right: Any) -> bool:
    """Return whether two nested states are equal bit for bit, not-a-number included."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return (
            left.dtype == right.dtype and left.shape == right.shape and bool(((left == right) | (left != left)).all())
        )
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_state(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(same_state(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)
