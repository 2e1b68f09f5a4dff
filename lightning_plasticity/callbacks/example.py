"""Find the units of a LightningModule with whatever example there is: given, its own, or the first training batch."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_plasticity.callbacks.trial import trial_run
from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import UnitMap, discover_units
from lightning_plasticity.units.example import check_example_inputs, example_called
from lightning_plasticity.units.patterns import Patterns
from lightning_plasticity.units.unit_map import checked_groups

_LEFT_OUT = "; without it, `training_step` is run on the first training batch"


def has_example(pl_module: pl.LightningModule, example_input: Any | None) -> bool:
    """Return whether units can be found without a training batch."""
    return example_input is not None or pl_module.example_input_array is not None


def find_units(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    example_input: Any | None = None,
    batch: Any = None,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    residual: Literal["skip", "group"] = "skip",
    otherwise: str = "",
) -> UnitMap:
    """Return the units of a LightningModule.

    The example is ``example_input`` if given, else the module's ``example_input_array``, else ``batch``, which runs
    through the module's own ``training_step``, in evaluation mode and without logging. Metrics, buffers, modes and
    random numbers are left as they were.

    Args:
        trainer: The Trainer; knows the precision.
        pl_module: The module.
        example_input: Arguments of ``forward``: a tensor, a tuple of positional or a mapping of keyword arguments; or a
            function that runs the module and returns what counts as its output.
        batch: A training batch, on the device of the module.
        include: Patterns of groups to keep; see :meth:`~lightning_plasticity.units.UnitMap.select`.
        exclude: Patterns of groups to leave out.
        residual: ``"skip"`` or ``"group"``: whether residual streams are units.
        otherwise: What the user may also do if there are none; ends the message.

    Returns:
        The units, restricted to ``include`` without ``exclude``.

    Raises:
        InvalidArgumentError: If the example is none.
        UnsupportedModelError: If there is no example, it cannot be run, or nothing is found.
    """
    precision = trainer.strategy.precision_plugin
    example = example_input if example_input is not None else pl_module.example_input_array
    name = "example_input" if example_input is not None or example is None else "example_input_array"
    ran = "" if example is not None else "`training_step` on the first training batch: "
    instead = "" if example is None or not pl_module.automatic_optimization else _LEFT_OUT
    full = torch.autocast(pl_module.device.type, enabled=False)  # its casts would hide which weight meets which input
    with example_called(name, ran, instead), precision.forward_context(), full, trial_run(pl_module):
        if example is not None:
            check_example_inputs(example)
            inputs = precision.convert_input(move_data_to_device(example, pl_module.device))
        else:
            check_example(pl_module, example_input)
            inputs = partial(_training_step, pl_module, batch)
        units = discover_units(pl_module, inputs, residual=residual)
    checked_groups(units, otherwise)
    return units.select(include, exclude)


def check_example(pl_module: pl.LightningModule, example_input: Any | None) -> None:
    """Refuse a module whose units could not be found once training has started.

    Args:
        pl_module: The module.
        example_input: The example given by the user, if any.

    Raises:
        UnsupportedModelError: If there is no example and the module optimises manually.
    """
    if not has_example(pl_module, example_input) and not pl_module.automatic_optimization:
        raise UnsupportedModelError(
            f"{type(pl_module).__name__} optimises manually and has no `example_input_array`",
            "an example input, since a `training_step` that steps optimizers cannot be run on trial",
            "Pass `example_input=` to the callback or set `self.example_input_array`",
        )


def _training_step(pl_module: pl.LightningModule, batch: Any) -> tuple[Any, list[Any]]:
    """Run the step on a batch.

    Returns:
        All that counts as its output: the loss, and what calls of the module itself return, of which the loss may use a
        part only. What the step reads of single layers is hidden.
    """
    outputs: list[Any] = []
    handle = pl_module.register_forward_hook(lambda module, args, output: outputs.append(output))
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    try:
        loss = pl_module.training_step(batch, *((0,) if takes_index else ()))
    finally:
        handle.remove()
    return loss, outputs
