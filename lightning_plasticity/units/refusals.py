"""What is refused before anything is run, and what is run in place of a wrapper."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_plasticity.errors import UnsupportedModelError, check_module
from lightning_plasticity.units.naming import module_names
from lightning_plasticity.units.writing import is_sharded


@dataclass(frozen=True)
class _Refusal:
    """A kind of module that cannot be taken apart: how to recognise it, and the three parts of the message."""

    applies: Callable[[nn.Module], bool]
    found: str
    expected: str
    remedy: str


def check_model(model: nn.Module) -> None:
    """Refuse a model whose units cannot be found or changed, whatever it computes.

    Args:
        model: The model, in any wrapper.

    Raises:
        InvalidArgumentError: If it is no module.
        UnsupportedModelError: If it, or a part of it, is scripted, replicated by ``nn.DataParallel``, not built yet, on
            the meta device, made in inference mode, sharded (FSDP1, FSDP2) or DeepSpeed's; all such parts are named.
    """
    check_module(model)
    modules = list(model.modules())
    for refusal in _REFUSALS:
        refused = [module for module in modules if refusal.applies(module)]
        if refused:
            names = module_names(model)
            found = [f"{names[module]!r}" if names[module] else "the model itself" for module in refused]
            raise UnsupportedModelError(f"{refusal.found}: {', '.join(found)}", refusal.expected, refusal.remedy)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and DistributedDataParallel.

    It is run in their place: nothing is compiled for a run that is not in earnest, and no process waits for the others.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model


def _holds(applies: Callable[[Tensor], bool]) -> Callable[[nn.Module], bool]:
    """Return whether a module itself holds a parameter or buffer of a kind."""

    def holds(module: nn.Module) -> bool:
        own = (*module._parameters.values(), *module._buffers.values())
        return any(tensor is not None and applies(tensor) for tensor in own)

    return holds


def _is_fully_sharded(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # if it was never imported, no module is one
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


def _is_of_deepspeed(module: nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == "deepspeed" for kind in type(module).__mro__)


def _is_partitioned(tensor: Tensor) -> bool:
    return "ds_id" in vars(tensor)  # by this attribute DeepSpeed knows its own


_WHOLE = "parameters that are whole on every process"
_NOT_SHARDED = "Use strategy='ddp' or a single device; FSDP, tensor parallelism and DeepSpeed are not supported yet"

_REFUSALS = (
    _Refusal(
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "a scripted or traced module, which takes no hooks",
        "a module that runs as Python code",
        "Find the units of the module it was made from",
    ),
    _Refusal(
        lambda module: isinstance(module, nn.DataParallel),
        "nn.DataParallel, which runs copies of the model that vanish after every forward pass",
        "a model that runs itself",
        "Pass its `.module`, and train with DistributedDataParallel (in Lightning: strategy='ddp')",
    ),
    _Refusal(
        _holds(is_lazy),
        "layers that are not built yet (lazy modules)",
        "layers whose weights have a shape",
        "Run the model once on the example before its units are looked for",
    ),
    _Refusal(
        lambda module: _is_fully_sharded(module),
        "FullyShardedDataParallel (FSDP1), which packs the parameters of many layers into shards of one",
        _WHOLE,
        _NOT_SHARDED,
    ),
    _Refusal(
        _holds(is_sharded), "sharded parameters (DTensor, as in FSDP2 and tensor parallelism)", _WHOLE, _NOT_SHARDED
    ),
    _Refusal(
        lambda module: _is_of_deepspeed(module) or _holds(_is_partitioned)(module),
        "DeepSpeed, which partitions parameters and steps its own optimizer",
        _WHOLE,
        _NOT_SHARDED,
    ),
    _Refusal(
        _holds(lambda tensor: tensor.is_inference()),
        "weights made in inference mode, which can never be trained",
        "weights that can be trained",
        "Build the model outside of `torch.inference_mode()`",
    ),
    _Refusal(
        _holds(lambda tensor: tensor.is_meta),
        "weights on the meta device, which have no values",
        "weights that exist",
        "Call `model.to_empty(device=...)` and initialise the weights first",
    ),
)
