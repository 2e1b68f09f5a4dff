"""Everything about a model, and around it, that looking at it must not change."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """Return identity and value of every tensor, modes, attributes, hooks, gradients, and the global state."""
    tensors = {
        name: (id(t), t.data_ptr(), t.dtype, t.requires_grad, t.detach().clone())
        for name, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    }
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    gradients = {
        name: None if p.grad is None else (id(p.grad), p.grad._version, p.grad.clone())
        for name, p in model.named_parameters()
    }
    modules = {name: (id(module), module.training, _attributes(module)) for name, module in model.named_modules()}
    return tensors, versions, gradients, modules, _global_state()


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what hangs on a module: plain values as they are, containers by their contents, the rest by identity."""
    return {name: _value(value) for name, value in sorted(vars(module).items())}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return id(value), [(str(key), id(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [id(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)


def _global_state() -> tuple[Any, ...]:
    hooks = [
        len(value) for name, value in vars(global_hooks).items() if name.startswith("_global") and name.endswith("s")
    ]
    numpy = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    flags = (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )
    return hooks, torch.get_rng_state(), cuda, random.getstate(), numpy[1].tolist(), numpy[2], flags


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Compare nested snapshots and say where they differ."""
    if isinstance(one, Tensor):
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for position, (item, its_other) in enumerate(zip(one, other, strict=True)):
            assert_equal(item, its_other, f"{where} {position}")
    else:
        assert one == other, where
