"""Names stay the same whatever wraps the model."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_plasticity.units import discover_units
from lightning_plasticity.units.naming import module_names, modules_by_name, parameter_shapes, tensor_at


def plain():
    return nn.Sequential(OrderedDict(module=nn.Linear(4, 8), act=nn.ReLU(), head=nn.Linear(8, 2)))


class Compiled(nn.Module):
    """Holds a module under the name that ``torch.compile`` gives it, without the seconds that its import takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._orig_mod(x)


def with_a_compiled_part():
    model = plain()
    model.module = Compiled(model.module)
    return model


def with_a_checkpointed_part():
    model = plain()
    model.module = checkpoint_wrapper(model.module)
    return model


@pytest.mark.parametrize("make", [plain, lambda: Compiled(plain()), with_a_compiled_part, with_a_checkpointed_part])
def test_wrappers_leave_no_trace_in_names(make):
    assert dict.fromkeys(module_names(make()).values()) == dict.fromkeys(["", "module", "act", "head"])
    units = discover_units(make(), torch.randn(3, 4))
    assert [group.name for group in units] == ["module"]
    assert [slot.path for slot in units["module"].slots] == ["module.weight", "module.bias", "head.weight"]
    assert units["module"].tap.path == "head"


def test_of_a_wrapper_and_what_it_wraps_the_name_leads_to_the_latter():
    model = plain()
    assert modules_by_name(Compiled(model))[""] is model


def test_tensors_are_found_by_name_in_modules_lists_and_the_model_itself():
    model = nn.Module()
    model.own, model.many = nn.Parameter(torch.ones(2)), nn.ParameterList([torch.ones(3)])
    model.norm = nn.BatchNorm1d(4)
    modules = modules_by_name(model)
    assert tensor_at(modules, "own") is model.own
    assert tensor_at(modules, "many.0") is model.many[0]
    assert tensor_at(modules, "norm.running_mean") is model.norm.running_mean
    assert tensor_at(modules, "norm.nothing") is None
    assert tensor_at(modules, "nowhere.weight") is None


def test_a_shared_parameter_has_one_shape_under_its_first_name():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.LazyLinear(2))
    model[1].weight = model[0].weight
    assert parameter_shapes(model) == {"0.weight": (3, 3)}


def test_groups_of_the_same_layer_have_numbers():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            left, right = self.both(x).chunk(2, dim=-1)
            return self.left(left) + self.right(right)

    assert [group.name for group in discover_units(Split(), torch.randn(2, 4))] == ["both", "both#2"]
