"""Prove on the model itself that discovered units are units.

For a unit with incoming and norm entries ``a`` and outgoing entries ``w``, the output is ``f(a, w)``:

* *independence*: ``f(a, 0) == f(a', 0)`` for redrawn ``a'``: nothing but ``w`` carries the unit;
* *exclusivity*: ``f(0, w) == f(0, 0)``: the outgoing entries of a unit that carries nothing carry nothing, hence
  setting them to zero removes this unit and nothing else; or, for a unit that is never silent (a cosine), the tap shows
  a constant that does not depend on any input or on any other weight;
* *sensitivity*: ``f(a, w) != f(a', w)``: the unit does matter;
* *minimality*: ``f`` depends on the entries in each outgoing slot: with exclusivity, each slot reads the unit; of a
  weight no entry of which acts, as its result is thrown away, this can be neither shown nor refuted;
* *completeness*: units that exchange all their entries leave the output as it is, so none was forgotten; or, where
  units differ in place, no entry that is said to write no unit acts through one unit alone. Of coupled units that
  cannot be exchanged, and where fewer than two units act, this can be neither shown nor refuted: they count as proven
  without;
* *tap*: a redrawn unit changes its own features of the tapped activation and those of no other unit.

What is shown, and of how much. Equal means a difference of at most 1e-9 of the largest output, in double precision.
Units have these properties with any weights, so the laws are tried with several: those of the model, slightly moved,
and many that are redrawn; running statistics always fit the activations. Independence (in evaluation and in training
mode), exclusivity and the tap (in evaluation mode) are shown for up to ``samples`` units of every group, in rounds
(:mod:`~lightning_plasticity.units.proof.rounds`); sensitivity and minimality per group and slot by derivatives;
completeness by all pairs of units that act.

The units of a ``coupled`` group share the statistics of a norm; for them independence is shown with these statistics
held at the values of the first run (:class:`~lightning_plasticity.units.statistics.FrozenStatistics`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    check_choice,
    check_counts,
    check_module,
    check_seed,
)
from lightning_plasticity.units.example import ExampleInputs
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.completeness import incomplete
from lightning_plasticity.units.proof.exclusivity import disjoint
from lightning_plasticity.units.proof.need import unneeded
from lightning_plasticity.units.proof.report import UnitProof, UnitProofs
from lightning_plasticity.units.proof.rounds import Rounds
from lightning_plasticity.units.proof.sandbox import Sandbox, sandbox
from lightning_plasticity.units.unit_map import UnitMap


def verify_units(
    model: nn.Module,
    example_inputs: ExampleInputs,
    unit_map: UnitMap,
    *,
    samples: int = 128,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> UnitProofs:
    """Prove the groups of ``unit_map`` on ``model``, which is left exactly as it was found.

    The model computes in double precision; two outputs are equal if they differ by at most 1e-9 of the largest. What
    holds of units holds with any weights, so they are redrawn many times (at first they are its own, slightly moved,
    and random ones where they are zero), and no initialisation hides anything. The model runs 63 times as a rule,
    however many groups there are: about 110 times if some are coupled and some are not, 150 to 300 where units differ
    in place (grouped convolutions), more where groups have fewer than four units, or where it finds a mistake.
    ``lightning_plasticity.units.proof.verify`` says what exactly is shown.

    Note:
        A unit is removed by zeros in its outgoing slots, in the parameters themselves. Where the weight that reads it
        is computed from them and never zero (a softmax over its row), zeros do not silence the unit: a map that has
        such a slot is refuted, and :func:`discover_units` skips the layer. A weight that *writes* units may be computed
        in any way. An entry that was forgotten of ``coupled`` units does not refute the group: no two of its units can
        be exchanged then, and ``complete`` is None.

    Args:
        model: The model that ``unit_map`` was found on.
        example_inputs: What it runs on: a tensor, a tuple of arguments, a mapping of keywords, or a callable without
            arguments that runs the model and returns what it computes.
        unit_map: The groups to prove.
        samples: Most units per group that are tried; those of a larger group are chosen at random.
        dtype: Precision of the proof; float32 (and 1e-4) for models that are too large for double precision, or that
            have an operation without it.
        seed: Seed of everything that is drawn.

    Returns:
        One proof per group.

    Raises:
        InvalidArgumentError: If ``model``, ``unit_map`` or ``example_inputs`` are none, or a setting is out of range.
        StateMismatchError: If ``unit_map`` is of another model, not bound to any, or a layer of it was exchanged.
        UnsupportedModelError: If the model cannot run on the example in evaluation mode, or not in this precision;
            returns no tensor, or something else in a second run with the same weights and random numbers.

    Example:
        >>> from lightning_plasticity.units import discover_units
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> print(verify_units(model, x, discover_units(model, x)).summary())
        group  units  independent  sensitive  minimal  exclusive  complete  tapped  modes
        0      8      yes          yes        yes      yes        yes       yes     evaluation, training
        independent: while nothing reads them, they do not reach the output; sensitive: otherwise they do; minimal: each
        reader is needed; exclusive: the readers read nothing else; complete: nothing that writes them was forgotten;
        tapped: the tap shows them, each at its place; -: neither shown nor refuted
    """
    check_module(model)
    if not isinstance(unit_map, UnitMap):
        raise InvalidArgumentError(
            f"unit_map of type {type(unit_map).__name__}",
            "a UnitMap",
            "Call `verify_units(model, example_inputs, discover_units(model, example_inputs))`",
        )
    check_counts(samples=samples)
    check_choice("dtype", dtype, (torch.float64, torch.float32))
    check_seed(seed)
    unit_map.check_bound()
    _refuse_foreign(model, unit_map)
    with sandbox(model, example_inputs, dtype=dtype, seed=seed) as box:
        _check_runs(box, model, example_inputs)
        modes = _modes(box)
        names = tuple("training" if training else "evaluation" for training in modes)
        proofs = {group.name: UnitProof(group.name, group.size, group.coupled, names) for group in unit_map}
        _prove_need(box, unit_map, modes, proofs)
        for coupled in (False, True):
            groups = [group for group in unit_map if group.coupled is coupled]
            if groups:
                Rounds(box, groups, proofs, samples).prove(modes)
        _prove_complete(box, unit_map, proofs)
        return UnitProofs(tuple(proofs.values()), box.runs)


def _check_runs(box: Sandbox, model: nn.Module, example_inputs: ExampleInputs) -> None:
    """Refuse a model that does not run on the example in evaluation mode, or not twice in the same way."""
    try:
        before, again = box.run(), box.run()
    except Exception as error:
        single = box.dtype != torch.float32 and _runs_in_single_precision(model, example_inputs)
        remedy = "Pass `dtype=torch.float32`" if single else "Pass as `example_inputs` what the model is called with"
        if single and callable(example_inputs):
            remedy += ", or let the function run the model on data in double precision"
        raise UnsupportedModelError(
            f"the model does not run on the example{f' in {box.dtype}' * single}: {type(error).__name__}: {error}",
            "a model that computes in double precision" if single else "inputs that it accepts in evaluation mode",
            remedy,
        ) from error
    if not before or not difference(before, again) <= box.tolerance:
        raise UnsupportedModelError(
            "the model returned no tensor" if not before else "two identical runs of the model differ",
            "output tensors that follow from the weights, the inputs and the global random generators",
            "Return the output (or the loss) from the callable, and draw from the global generators only",
        )


def _runs_in_single_precision(model: nn.Module, example_inputs: ExampleInputs) -> bool:
    with sandbox(model, example_inputs, dtype=torch.float32) as box:
        try:
            box.run()
        except Exception:  # so the precision is not the reason
            return False
    return True


def _refuse_foreign(model: nn.Module, unit_map: UnitMap) -> None:
    modules = set(model.modules())
    foreign = [group.name for group in unit_map if any(slot.module not in modules for slot in group.slots)]
    if foreign:
        raise StateMismatchError(
            f"groups {foreign} of another model than the {type(model).__name__} to prove them on",
            "a map that was found on this model",
            "Bind it to this one (`units = units.update(model)`), or find its units anew",
        )


def _modes(box: Sandbox) -> tuple[bool, ...]:
    """Return the modes (``training``) in which the model runs and repeats itself."""
    box.training = True
    try:
        repeats = difference(box.run(), box.run()) <= box.tolerance
    except Exception:
        repeats = False
    box.training = False
    return (False, True) if repeats else (False,)


def _prove_need(box: Sandbox, unit_map: UnitMap, modes: Sequence[bool], proofs: dict[str, UnitProof]) -> None:
    """Prove that no entry has two owners, that the units matter, and that each outgoing slot does."""
    for group in unit_map:
        for problem in disjoint(box, group):
            proofs[group.name].refute("exclusive", problem)
    needless = unneeded(box, unit_map.groups, modes)
    for group in needless.groups:
        proofs[group.name].refute("sensitive", "redrawn, the units do not change the output")
    for name, slots in needless.inert.items():
        for slot in slots:
            proofs[name].refute("minimal", f"{slot.path} acts on nothing, so it does not show what it reads", None)
    for name, slots in needless.slots.items():
        for slot in slots:
            proofs[name].refute("minimal", f"{slot.path} does not read the units")


def _prove_complete(box: Sandbox, unit_map: UnitMap, proofs: dict[str, UnitProof]) -> None:
    """Prove that no entry of the units was forgotten; of coupled ones that cannot be exchanged, it cannot be told."""
    problems, untold = incomplete(box, unit_map)
    for group in untold:
        proofs[group.name].complete = None
    for name, problem in problems.items():
        proofs[name].refute("complete", problem, None if proofs[name].coupled else False)
