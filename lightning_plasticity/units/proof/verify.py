"""Prove on the model itself that discovered units are units.

For a unit with incoming and norm entries ``a`` and outgoing entries ``w``, the output is ``f(a, w)``:

* *independence*: ``f(a, 0) == f(a', 0)`` for redrawn ``a'``: nothing but ``w`` carries the unit;
* *exclusivity*: ``f(0, w) == f(0, 0)``: the outgoing entries of a unit that carries nothing carry nothing, hence
  setting them to zero removes this unit and nothing else; or, for a unit that is never silent (a cosine), the tap shows
  a constant that does not depend on any input or on any other weight;
* *sensitivity*: ``f(a, w) != f(a', w)``: the unit does matter;
* *minimality*: ``f`` depends on the entries in each outgoing slot: with exclusivity, each slot reads the unit;
* *completeness*: exchanging all entries of two units leaves the output as it is, so none was forgotten; or, where no
  two units have the same place, no entry that is said to write no unit acts through one unit alone. Of coupled
  units that cannot be exchanged, and where fewer than two units act, this can be neither shown nor refuted: they count
  as proven without;
* *tap*: a redrawn unit changes its own features of the tapped activation and those of no other unit.

What is shown, and of how much. Equal means a difference of at most 1e-9 of the largest output, in double precision,
with all weights and statistics in generic position. Independence (in evaluation and in training mode), exclusivity and
the tap (in evaluation mode) are shown for up to ``samples`` units of every group, of all groups at once. Each of these
units has a random code of four bits, and in the round of each bit, those in whose code it is set are changed together:
about half, so that the others go on carrying the signal, and so that a mistake that two units share (exchanged columns)
is seen in the rounds in which they differ. If a round fails, the groups are halved until the guilty ones are found.
Groups of fewer than four units, which may be all that connects input and output, are tried alone. Sensitivity and
minimality are shown per group and slot by derivatives, completeness by pairs of units.

The units of a ``coupled`` group share the statistics of a norm; for them independence is shown with these statistics
held at the values of the first run (:class:`~lightning_plasticity.units.statistics.FrozenStatistics`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    check_choice,
    check_counts,
    check_seed,
)
from lightning_plasticity.units.example import ExampleInputs
from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.completeness import incomplete
from lightning_plasticity.units.proof.exclusivity import SILENCES, disjoint, exclusive, self_contained
from lightning_plasticity.units.proof.independence import independent, unread
from lightning_plasticity.units.proof.laws import Chosen, blamed
from lightning_plasticity.units.proof.need import unneeded
from lightning_plasticity.units.proof.report import UnitProof, UnitProofs
from lightning_plasticity.units.proof.sandbox import Sandbox, sandbox
from lightning_plasticity.units.unit_map import UnitMap

_ROUNDS, _CHANGED = 5, 2
_SCALES = (1.0, 10.0)
_CONNECTED = 4


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

    The model computes in double precision with weights in generic position (its own, slightly moved, and random ones
    where they are zero), so that an initialisation at zero hides nothing; two outputs are equal if they differ by at
    most 1e-9 of the largest. It runs about 35 times, however many groups there are; more often if some are coupled and
    some are not, and where it finds a mistake. ``lightning_plasticity.units.proof.verify`` says what exactly is shown.

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
        InvalidArgumentError: If ``unit_map`` or ``example_inputs`` are none, or a setting is out of its range.
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
                _Rounds(box, groups, proofs, samples).prove(modes)
        _prove_complete(box, unit_map, proofs)
        return UnitProofs(tuple(proofs.values()), box.runs)


def _check_runs(box: Sandbox, model: nn.Module, example_inputs: ExampleInputs) -> None:
    """Refuse a model that does not run on the example in evaluation mode, or not twice in the same way."""
    try:
        before, again = box.run(), box.run()
    except Exception as error:
        single = box.dtype != torch.float32 and _runs_in_single_precision(model, example_inputs)
        raise UnsupportedModelError(
            f"the model does not run on the example{f' in {box.dtype}' * single}: {type(error).__name__}: {error}",
            "a model that computes in double precision" if single else "inputs that it accepts in evaluation mode",
            "Pass `dtype=torch.float32`" if single else "Pass as `example_inputs` what the model is called with",
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
    idle, vain = unneeded(box, unit_map.groups, modes)
    for group in idle:
        proofs[group.name].refute("sensitive", "redrawn, the units do not change the output")
    for name, slots in vain.items():
        for slot in slots:
            proofs[name].refute("minimal", f"{slot.path} does not read the units")


def _prove_complete(box: Sandbox, unit_map: UnitMap, proofs: dict[str, UnitProof]) -> None:
    """Prove that no entry of the units was forgotten; of coupled ones that cannot be exchanged, it cannot be told."""
    problems, untold = incomplete(box, unit_map)
    for group in untold:
        proofs[group.name].complete = None
    for name, problem in problems.items():
        proofs[name].refute("complete", problem, None if proofs[name].coupled else False)


class _Rounds:
    """The laws that are checked in rounds, in each of which other units are changed; see the module."""

    def __init__(self, box: Sandbox, groups: Sequence[UnitGroup], proofs: dict[str, UnitProof], samples: int) -> None:
        self.box, self.groups, self.proofs, self.samples = box, groups, proofs, samples
        self.silenced = dict.fromkeys((group.name for group in groups), 0)  # the way in which they carry nothing
        self.seen: set[str] = set()  # groups whose units moved at their taps

    def prove(self, modes: Sequence[bool]) -> None:
        for training in modes:
            self.box.training = training
            for number, chosen in enumerate(self._rounds()):
                if number or training:  # the first round is of the model's own weights
                    self.box.redraw_weights()
                for together in filter(None, self._apart(chosen, "independent")):
                    self._prove_independent(together, _SCALES[number % 2])
        self.box.training = False
        for chosen in self._rounds():
            self.box.redraw_weights()
            for together in filter(None, self._apart(chosen, "exclusive")):
                self._prove_exclusive(together)
        for group in self.groups:
            if group.tap is None or not self.proofs[group.name].independent:
                self.proofs[group.name].tapped = None
            elif group.name not in self.seen:
                self.proofs[group.name].refute("tapped", "redrawn, the units do not change the tapped activation")

    def _rounds(self) -> Iterator[Chosen]:
        """Yield the units to change: by bits of random codes that are not zero; of small groups alone, once each."""
        large = [group for group in self.groups if group.size >= _CONNECTED]
        units = {group.name: self.box.choose(group.size, self.samples) for group in large}
        codes = {name: self._codes(len(chosen)) for name, chosen in units.items()}
        for number in range(_ROUNDS):
            chosen = [(group, units[group.name][codes[group.name][:, number]]) for group in large]
            yield [(group, some) for group, some in chosen if len(some)]
        for group in self.groups:
            if group.size < _CONNECTED:
                yield from ([(group, unit[None])] for unit in self.box.choose(group.size, group.size))

    def _codes(self, count: int) -> Tensor:
        """Return the rounds in which each unit is changed, ``[count, rounds]``; equal codes are as rare as can be."""
        codes = torch.tensor([[i in code for i in range(_ROUNDS)] for code in combinations(range(_ROUNDS), _CHANGED)])
        most = len(codes)
        return torch.cat([codes[self.box.choose(most, most)] for _ in range(0, count, most)])[:count]

    def _apart(self, chosen: Chosen, law: str) -> Iterator[Chosen]:
        """Yield what to check together: all groups without a fault, then each faulty one alone, unless of this law."""
        faulty = [(group, units) for group, units in chosen if self.proofs[group.name].problems]
        names = {group.name for group, _ in faulty}
        yield [(group, units) for group, units in chosen if group.name not in names]
        yield from ([one] for one in faulty if getattr(self.proofs[one[0].name], law) is True)

    def _prove_independent(self, chosen: Chosen, scale: float) -> None:
        problems, moved = unread(self.box, chosen, scale)
        if problems:
            guilty = blamed(independent, self.box, chosen)
            for name, problem in guilty.items():
                self.proofs[name].refute("independent", problem)
            chosen = [(group, units) for group, units in chosen if group.name not in guilty]
            moved = unread(self.box, chosen)[1] if chosen else {}
        for group, units in chosen:
            if group.name in moved:
                self._note_tap(group, units, moved[group.name])

    def _note_tap(self, group: UnitGroup, units: Tensor, moved: Tensor) -> None:
        own = torch.zeros_like(moved)
        own[units] = True
        self.seen |= {group.name} if (moved & own).any() else set()
        others = torch.where(moved & ~own)[0].tolist()
        if others:
            problem = f"units {units.tolist()}: redrawn, they change the tapped activation of {others}"
            self.proofs[group.name].refute("tapped", problem)

    def _prove_exclusive(self, chosen: Chosen) -> None:
        """Silence the units, each group in the first way in which it carries nothing; else by what the tap shows."""
        for number, how in enumerate(SILENCES):
            now = [(group, units) for group, units in chosen if self.silenced[group.name] == number]
            loud = blamed(partial(exclusive, how=how), self.box, now)
            for group, units in now:
                if group.name in loud and number + 1 < len(SILENCES):
                    self.silenced[group.name] += 1
                elif group.name in loud and not (verdict := self_contained(self.box, group, units)):
                    self.proofs[group.name].refute("exclusive", loud[group.name], verdict)
