"""Find the hidden units of any model by running it once under labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError, check_flags
from lightning_plasticity.units.example import ExampleInputs, how_to_run
from lightning_plasticity.units.naming import module_names, with_unique_names
from lightning_plasticity.units.refusals import check_model, unwrapped
from lightning_plasticity.units.restoring import untouched
from lightning_plasticity.units.table import together
from lightning_plasticity.units.tracing.computed import follow_back
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.frames import Frames
from lightning_plasticity.units.tracing.grouping import groups_of
from lightning_plasticity.units.tracing.labels import Labels
from lightning_plasticity.units.tracing.reasons import branching, left_out
from lightning_plasticity.units.tracing.rules import label_step
from lightning_plasticity.units.tracing.source import Source
from lightning_plasticity.units.tracing.sources import Sources, expected_labels
from lightning_plasticity.units.tracing.trace import check_complete, run_under_labels
from lightning_plasticity.units.tracing.verdict import Verdict
from lightning_plasticity.units.unit_map import UnitMap

Residual: TypeAlias = Literal["skip", "group"]
"""What to do with residual streams, see :func:`discover_units`."""

_MOST_PASSES = 6


def discover_units(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    residual: Residual = "skip",
    through_norms: bool = True,
) -> UnitMap:
    """Return the hidden units of a model, found by running it on an example with a label beside every number.

    What is found holds for the layers that the example runs through. If the model branches on its data (a router, an
    early exit, an expert without a sample) or at random (a head that is drawn), units that a layer which did not run
    may use are skipped. Only what the global generators of PyTorch, Python and NumPy draw counts as random.

    A pass runs the model twice: in evaluation and in training mode, without gradients; batch norms stay in evaluation
    mode. One pass is the rule. If units are lost only because their activations meet those of a layer that can have no
    units, the labels of that layer are switched off and another pass follows, up to six in all. The model is left
    exactly as it was found: modes, parameters, buffers, attributes, hooks, random states.

    Units that meet, element by element, a buffer which the model updates from its activations are skipped, as behind a
    batch norm written by hand: its statistics would outlive them. Buffers that are constant, that nobody reads in
    evaluation mode, or that PyTorch's own batch norm reads, do no harm.

    Not seen are operations that happen in other threads outside of all modules, those on tensors that leave torch, of
    which only the leaving is noticed, and an output that the model returns inside of objects other than tuples, lists,
    mappings and dataclasses: its units count as hidden if a layer reads them as well.

    Args:
        model: Any module. Wrappers (``torch.compile``, DDP) are seen through: names are those of the plain model.
        example_inputs: What to run the model on: a tensor, a tuple of positional arguments, a mapping of
            keyword arguments (a dict, or what a tokenizer returns), or a function without arguments that runs the model
            and returns what must count as its output, such as ``lambda: module.training_step(batch, 0)``. A batch of
            two or more is best; one works.
        residual: Whether residual streams (units that a layer reads and later ones add to, gated or not) are groups.
            They are skipped by default: replacing one wipes a feature that the whole network carries along. For
            observation they are units like all others.
        through_norms: Whether units that share the statistics of a LayerNorm, GroupNorm or RMSNorm are groups, marked
            ``coupled``: replacing one changes its neighbours slightly. If False, every group is exact.

    Returns:
        The groups in the order in which the model computes them, and the layers left out, each with the reason.

    Raises:
        InvalidArgumentError: If ``model`` is no module, ``residual`` or ``through_norms`` is none of the choices,
            or ``example_inputs`` are of another type or without a sample.
        UnsupportedModelError: If the model cannot be run on the example; if a part of it cannot be taken apart (a
            scripted module, nn.DataParallel, FSDP, DeepSpeed, sharded, lazy or meta parameters, weights made in
            inference mode); if layers run in other threads; if the forward pass builds layers, or gives weights other
            memory; or if the run uses not one weight of the model. All such parts are named.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> print(discover_units(model, torch.randn(2, 3, 8, 8)).summary())
        group  units  written by  read by
        0          8  0           4
        1 group, 8 units, 99.7% of all weights
        skipped 4: it reaches the output of the model
    """
    if residual not in get_args(Residual):
        raise InvalidArgumentError(
            f"residual={residual!r}", "'skip' or 'group'", "Pass 'group' to treat residual streams as units like others"
        )
    check_flags(through_norms=through_norms)
    check_model(model)
    names = module_names(model)
    default = torch.get_default_device()
    forward, _ = how_to_run(unwrapped(model), example_inputs)
    with _default_device(torch.device("cpu")):
        with untouched(model) as before_write:
            verdict = _settled(model, _on(default, forward), names, through_norms, before_write)
        _refuse_strange(verdict.run, model)
        found = with_unique_names(groups_of(verdict))
        uncertain = branching(verdict, found)
        certain = [group for group in found if group.name not in uncertain]
        groups = [group for group in certain if residual == "group" or not group.residual]
        streams = [group for group in certain if group not in groups]
        skipped = (*left_out(verdict, groups, streams), *uncertain.values())
        idle = _idle(verdict.run)
    return UnitMap(model, tuple(groups), skipped, idle=idle)


def _settled(
    model: nn.Module,
    forward: Callable[[], Any],
    names: dict[nn.Module, str],
    through_norms: bool,
    before_write: Callable[[Tensor], None],
) -> Verdict:
    """Run the model under labels until no unit is lost for the fault of another."""
    labels = Labels(expected_labels(names))
    sources = Sources(model, labels, names)
    for again in range(_MOST_PASSES):
        if again:
            labels.restart()
            sources.restart()
        run = Execution(labels, sources, Frames(names), label_step)
        for training in (False, True):
            run_under_labels(run, forward, training, before_write)
        check_complete(run, model)
        follow_back(run)
        labels.settle()
        verdict = Verdict(run, through_norms)
        guilty = verdict.guilty()
        if not guilty.any():
            break
        labels.switch_off(guilty)
    return verdict


def _is_used(source: Source) -> bool:
    return bool(source.orientations or source.elementwise or source.fault or source.used_by or source.undivided)


def _idle(run: Execution) -> tuple[str, ...]:
    """Return the layers that have weights, none of which was used."""
    weights = [source for source in run.sources.all if source.is_parameter]
    used = {source.module for source in weights if _is_used(source)}
    of_layers = [source for source in weights if source.tensor.ndim > 1 and source.module not in used]
    return tuple(dict.fromkeys(run.frames.names[source.module] for source in of_layers))


def _refuse_strange(run: Execution, model: nn.Module) -> None:
    """Refuse a run that uses no weight of the model: it was that of another model, or of none."""
    weights = [source for source in run.sources.all if source.is_parameter]
    is_used = any(map(_is_used, weights)) or bool(run.tape.steps)
    if weights and not (is_used or run.decides):  # the latter: of a branch that saw no sample
        raise UnsupportedModelError(
            f"a run in which none of the {len(weights)} parameters of {type(model).__name__} was used: "
            f"{', '.join(together(source.layer for source in weights))} did not run",
            "a run of the model itself, with its own weights",
            "If `example_inputs` is a function, let it run the very model that is passed, no copy and no other one; "
            "else see why `forward` goes past the layers",
        )


def _default_device(device: torch.device) -> AbstractContextManager[Any]:
    """New tensors are made on ``device``; what is remembered of units is on the host."""
    return nullcontext() if device == torch.get_default_device() else device


def _on(default: torch.device, forward: Callable[[], Any]) -> Callable[[], Any]:
    """The model itself runs with the default device that the user has set."""

    def run() -> Any:
        with _default_device(default):
            return forward()

    return run
