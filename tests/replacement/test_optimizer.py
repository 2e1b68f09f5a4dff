"""What an optimizer remembers of replaced units: every optimizer of torch.optim, and unknown ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedOptimizerError
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.replacement import Method
from lightning_plasticity.replacement.optimizer.memory import OptimizerMemory
from lightning_plasticity.replacement.optimizer.young_rules import HORIZON
from lightning_plasticity.units import Slot, UnitMap, discover_units

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True, maximize=True),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adam_tensor_lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), betas=(0.8, 0.99)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.5),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.02),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01, t0=0.0),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "muon": lambda p: torch.optim.Muon([each for each in p if each.ndim == 2], lr=0.01),
}
CORRECTED = ["adam", "amsgrad", "adam_foreach", "adam_fused", "adam_tensor_lr", "adamw", "adamax", "nadam", "radam"]
INITIAL = {("rprop", "step_size"): 0.02, ("adagrad", "sum"): 0.5}


def network() -> tuple[nn.Module, UnitMap]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    return model, discover_units(model, torch.randn(4, 5, dtype=torch.float64))


def entries(slots: list[Slot], units: Tensor) -> dict[str, Tensor]:
    """Which entries of which parameter belong to the units."""
    masks: dict[str, Tensor] = {}
    for slot in slots:
        mask = masks.setdefault(slot.path, torch.zeros_like(slot.tensor, dtype=torch.bool))
        slot.assign(units, 1.0, tensor=mask)
    return masks


def gradients(model: nn.Module, *, constant: bool) -> None:
    for parameter in model.parameters():
        fixed = torch.linspace(0.1, 2.1, parameter.numel(), dtype=parameter.dtype).view_as(parameter)
        parameter.grad = fixed if constant else torch.randn_like(parameter)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, memory: OptimizerMemory, *, constant: bool) -> None:
    gradients(model, constant=constant)
    optimizer.step()
    with torch.no_grad():
        memory.after_step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory_of_replaced_units_starts_afresh_and_no_other_changes(name):
    model, units = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    memory = OptimizerMemory(optimizer, "fresh")
    for _ in range(5):
        step(model, optimizer, memory, constant=False)
    group, replaced = units.groups[0], torch.tensor([4, 1])
    before = copy.deepcopy(optimizer.state_dict()["state"])
    memory.forget(group, replaced)
    masks = entries(list(group.slots), replaced)
    checked = 0
    for path, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        position = [id(p) for g in optimizer.param_groups for p in g["params"]].index(id(parameter)) if state else None
        mask = masks.get(path, torch.zeros_like(parameter, dtype=torch.bool))
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                fresh = parameter if key == "ax" else torch.full_like(parameter, INITIAL.get((name, key), 0.0))
                assert torch.equal(value[mask], fresh[mask]), key
                assert torch.equal(value[~mask], before[position][key][~mask]), key
                checked += int(mask.sum())
            elif isinstance(value, Tensor):
                assert torch.equal(value, before[position][key]), key
    assert checked > 0 or name in {"sgd", "adafactor"}


@pytest.mark.parametrize("name", ["momentum", "amsgrad", "nadam", "rmsprop"])
def test_all_memory_of_a_channel_its_norm_and_its_columns_behind_a_flatten_is_forgotten_alike(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    model = nn.Sequential(*layers).double()
    (group,) = discover_units(model, torch.randn(2, 2, 3, 3, dtype=torch.float64))
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    memory = OptimizerMemory(optimizer, "fresh")
    for _ in range(3):
        step(model, optimizer, memory, constant=True)
    before = copy.deepcopy({p: optimizer.state[tensor] for p, tensor in model.named_parameters()})
    memory.forget(group, torch.tensor([2]))
    masks = entries(list(group.slots), torch.tensor([2]))
    assert {path: int(masks[path].sum()) for path in ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight")} == {
        "0.weight": 8, "0.bias": 1, "1.weight": 1, "1.bias": 1, "4.weight": 12
    }  # fmt: skip
    for path, parameter in model.named_parameters():
        mask = masks.get(path, torch.zeros_like(parameter, dtype=torch.bool))
        for key, value in optimizer.state[parameter].items():
            if value.shape == parameter.shape:
                assert value[mask].eq(0).all(), (path, key)
                assert before[path][key][mask].ne(0).all(), (path, key)
                assert torch.equal(value[~mask], before[path][key][~mask]), (path, key)


class Foreign(torch.optim.Optimizer):
    """An optimizer that nobody knows, with one memory per element and one that is not."""

    def __init__(self, params, dtype=torch.float64):
        super().__init__(params, {"lr": 0.1})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("mystery", torch.zeros_like(p, dtype=self.dtype)).add_(1)
                state.setdefault("whole", torch.zeros(3)).add_(1)
                p.sub_(group["lr"] * state["mystery"])


def test_an_unknown_optimizer_forgets_whatever_has_the_shape_of_the_parameter():
    model, units = network()
    optimizer = Foreign(list(model.parameters()))
    memory = OptimizerMemory(optimizer, "fresh")
    step(model, optimizer, memory, constant=True)
    memory.forget(units.groups[0], torch.tensor([2]))
    state = optimizer.state[model[0].weight]
    assert state["mystery"][:, 0].tolist() == [1, 1, 0, 1, 1, 1]
    assert state["whole"].tolist() == [1, 1, 1]


def test_quantised_memory_is_refused_by_name():
    model, units = network()
    optimizer = Foreign(list(model.parameters()), dtype=torch.uint8)
    memory = OptimizerMemory(optimizer, "zero")
    step(model, optimizer, memory, constant=True)
    with pytest.raises(
        UnsupportedOptimizerError, match=r"Foreign keeps 'mystery' of '0.weight' as torch.uint8.*'keep'"
    ):
        memory.forget(units.groups[0], torch.tensor([2]))


@pytest.mark.parametrize("policy", ["zero", "keep"])
def test_the_other_policies_leave_the_step_alone(policy):
    model, units = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    memory = OptimizerMemory(optimizer, policy)
    for _ in range(3):
        step(model, optimizer, memory, constant=True)
    before = copy.deepcopy(optimizer.state[model[0].weight])
    memory.forget(units.groups[0], torch.tensor([3]))
    after = optimizer.state[model[0].weight]
    assert torch.equal(after["step"], before["step"])
    assert torch.equal(after["exp_avg"], before["exp_avg"]) == (policy == "keep")
    plain = copy.deepcopy(model)
    twin = torch.optim.Adam(plain.parameters(), lr=0.01)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, memory, constant=True)
    gradients(plain, constant=True)
    twin.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_an_unknown_policy_is_refused():
    method = continual_backprop()
    with pytest.raises(InvalidArgumentError, match=r"optimizer_state='reset'.*'fresh', 'zero', 'keep'"):
        Method(method.utility, method.selection, method.edits, optimizer_state="reset")


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_optimizers_without_memory_per_element_are_refused_by_name(kind):
    model, _ = network()
    with pytest.raises(UnsupportedOptimizerError, match=kind.__name__):
        OptimizerMemory(kind(list(model.parameters())), "fresh")


# ---------------------------------------------------------------------------------------------------- young entries


def trajectory(name: str, *, constant: bool, steps: int, decay: bool = True) -> tuple[dict[str, Tensor], ...]:
    """Updates of a parameter whose units 4 and 1 are replaced, of a twin without, and of a newly built optimizer."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = OPTIMIZERS[name](list(model.parameters()))
        if not decay:  # it looks at the weights, which differ between the runs
            optimizer.param_groups[0]["weight_decay"] = 0.0
        return optimizer

    model, units = network()
    optimizer = make(model)
    memory = OptimizerMemory(optimizer, "fresh")
    for _ in range(150):
        step(model, optimizer, memory, constant=constant)
    twin, new = copy.deepcopy(model), copy.deepcopy(model)
    twin_optimizer, new_optimizer = make(twin), make(new)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    masks = {p: torch.zeros_like(t, dtype=torch.bool) for p, t in model.named_parameters()}
    for group, chosen in zip(units.groups, (torch.tensor([4, 1]), torch.tensor([0])), strict=True):
        memory.forget(group, chosen)
        for path, mask in entries(list(group.slots), chosen).items():
            masks[path] |= mask
    runs: tuple[list[Tensor], ...] = ([], [], [])
    for _ in range(steps):
        state = torch.get_rng_state()
        for m, o, run in ((model, optimizer, 0), (twin, twin_optimizer, 1), (new, new_optimizer, 2)):
            torch.set_rng_state(state)
            old = torch.cat([p.detach().flatten().clone() for p in m.parameters()])
            step(m, o, memory if m is model else OptimizerMemory(o, "keep"), constant=constant)
            runs[run].append(torch.cat([p.detach().flatten() for p in m.parameters()]) - old)
    mask = torch.cat([masks[path].flatten() for path, _ in model.named_parameters()])
    return (*(torch.stack(run) for run in runs), mask)


@pytest.mark.parametrize("name", CORRECTED)
def test_entries_of_replaced_units_move_as_in_a_newly_built_optimizer(name):
    replaced, _, new, mask = trajectory(name, constant=False, steps=HORIZON, decay=False)
    assert torch.allclose(replaced[:, mask], new[:, mask], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", CORRECTED)
def test_under_a_constant_gradient_the_updates_stay_close_to_a_fresh_ones_and_others_do_not_change_at_all(name):
    replaced, twin, new, mask = trajectory(name, constant=True, steps=HORIZON + 150)
    ratio = replaced[:, mask] / new[:, mask]
    assert ratio.min() > 0.5
    assert ratio.max() < 2
    assert torch.equal(replaced[:, ~mask], twin[:, ~mask])
