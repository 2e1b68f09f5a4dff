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
    """What cannot be taken apart: the three parts of the message, and how its modules or its tensors are recognised."""

    found: str
    expected: str
    remedy: str
    of_type: Callable[[type[nn.Module]], bool] | None = None
    of_tensor: Callable[[Tensor], bool] | None = None


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
    types = {type(module) for module in modules}
    held = [
        (module, tensor)
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]
    for refusal in _REFUSALS:
        kinds = {kind for kind in types if refusal.of_type(kind)} if refusal.of_type else set()
        refused = [module for module in modules if type(module) in kinds] if kinds else []
        refused += [module for module, tensor in held if refusal.of_tensor(tensor)] if refusal.of_tensor else []
        if refused:
            names = module_names(model)
            found = [f"{names[module]!r}" if names[module] else "the model itself" for module in dict.fromkeys(refused)]
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


def _is_fully_sharded(kind: type[nn.Module]) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # if it was never imported, no module is one
    return fsdp is not None and issubclass(kind, fsdp.FullyShardedDataParallel)


def _is_of_deepspeed(kind: type[nn.Module]) -> bool:
    return any(base.__module__.partition(".")[0] == "deepspeed" for base in kind.__mro__)


def _is_partitioned(tensor: Tensor) -> bool:
    return "ds_id" in vars(tensor)  # by this attribute DeepSpeed knows its own


_WHOLE = "parameters that are whole on every process"
_NOT_SHARDED = "Use strategy='ddp' or a single device; FSDP, tensor parallelism and DeepSpeed are not supported yet"

_REFUSALS = (
    _Refusal(
        "a scripted or traced module, which takes no hooks",
        "a module that runs as Python code",
        "Find the units of the module it was made from",
        of_type=lambda kind: issubclass(kind, torch.jit.ScriptModule),
    ),
    _Refusal(
        "nn.DataParallel, which runs copies of the model that vanish after every forward pass",
        "a model that runs itself",
        "Pass its `.module`, and train with DistributedDataParallel (in Lightning: strategy='ddp')",
        of_type=lambda kind: issubclass(kind, nn.DataParallel),
    ),
    _Refusal(
        "layers that are not built yet (lazy modules)",
        "layers whose weights have a shape",
        "Run the model once on the example before its units are looked for",
        of_tensor=is_lazy,
    ),
    _Refusal(
        "FullyShardedDataParallel (FSDP1), which packs the parameters of many layers into shards of one",
        _WHOLE,
        _NOT_SHARDED,
        of_type=_is_fully_sharded,
    ),
    _Refusal(
        "sharded parameters (DTensor, as in FSDP2 and tensor parallelism)", _WHOLE, _NOT_SHARDED, of_tensor=is_sharded
    ),
    _Refusal(
        "DeepSpeed, which partitions parameters and steps its own optimizer",
        _WHOLE,
        _NOT_SHARDED,
        of_type=_is_of_deepspeed,
        of_tensor=_is_partitioned,
    ),
    _Refusal(
        "weights made in inference mode, which can never be trained",
        "weights that can be trained",
        "Build the model outside of `torch.inference_mode()`",
        of_tensor=torch.Tensor.is_inference,
    ),
    _Refusal(
        "weights on the meta device, which have no values",
        "weights that exist",
        "Call `model.to_empty(device=...)` and initialise the weights first",
        of_tensor=lambda tensor: tensor.is_meta,
    ),
)
