"""Prove on the model itself that discovered units are units.

For a unit with incoming and norm entries ``a`` and outgoing entries ``w``, the output is ``f(a, w)``:

* *independence*: ``f(a, 0) == f(a', 0)`` for any redrawn ``a'``: nothing but ``w`` carries the unit;
* *sensitivity*: ``f(a, w) != f(a', w)``: the unit does matter;
* *minimality*: with every outgoing slot at zero but one, ``f`` depends on ``a``: each slot is needed;
* *exclusivity*: ``f(0, w) == f(0, 0)``: the outgoing entries of a unit that carries nothing carry nothing, hence
  setting them to zero removes this unit and nothing else; or, for a unit that is never silent (a cosine), the tap shows
  a constant that does not depend on any input or on any other weight;
* *tap*: a redrawn unit changes its own features of the tapped activation and those of no other unit;
* *interchangeability*: exchanging all entries of two units leaves the output as it is. It shows that no entry of the
  unit was missed, but holds only among units of the same place (the same head, the same group of a convolution), so
  it is reported and never required.

Independence is checked for single units and for about 4 % of the units of all groups at once, in evaluation and in
training mode. The units of a ``coupled`` group share the statistics of a norm; for them independence and minimality
are shown with these statistics held at the values of the first run
(:class:`~lightning_plasticity.units.statistics.FrozenStatistics`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units.group import UnitGroup
from lightning_plasticity.units.proof import laws
from lightning_plasticity.units.proof.comparison import difference
from lightning_plasticity.units.proof.sandbox import ExampleInputs, Sandbox, sandbox
from lightning_plasticity.units.table import aligned
from lightning_plasticity.units.unit_map import UnitMap

_JOINT_FRACTION = 0.04
_TRIED = 6
_LEGEND = (
    "independent: while nothing reads them, they do not reach the output; sensitive: otherwise they do; minimal: each",
    "reader is needed; exclusive: the readers read nothing else; tapped: the tap shows them, each at its place;",
    "interchangeable: two of them can be exchanged (not required); -: neither shown nor refuted",
)


@dataclass
class UnitProof:
    """What was shown of one group; None where a law could be neither shown nor refuted.

    Args:
        group: Name of the group.
        size: Number of its units.
        coupled: Whether independence and minimality were shown with the statistics of norms held constant.
        modes: The modes in which the model could run and the laws were checked.
        independent: With nothing reading them, redrawn units do not reach the output.
        sensitive: With everything in place, they do.
        minimal: Each outgoing slot is needed.
        exclusive: The outgoing slots read nothing but the units; None if the units are never silent and have no tap.
        tapped: The tap shows the units, each at its place; None without a tap.
        interchangeable: Neighbouring units can be exchanged; None if none of those tried could.
        problems: What was found wrong.
    """

    group: str
    size: int
    coupled: bool
    modes: tuple[str, ...]
    independent: bool = True
    sensitive: bool = True
    minimal: bool = True
    exclusive: bool | None = True
    tapped: bool | None = True
    interchangeable: bool | None = True
    problems: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether the units are independent, sensitive, minimal and exclusive, and the tap (if any) shows them."""
        alone = self.independent and self.exclusive is True
        return alone and self.sensitive and self.minimal and self.tapped is not False


@dataclass(frozen=True)
class UnitProofs:
    """The proofs of all groups of a map.

    Args:
        proofs: One proof per group, in the order of the map.
        runs: How often the model was run.
    """

    proofs: tuple[UnitProof, ...]
    runs: int

    def __iter__(self) -> Iterator[UnitProof]:
        return iter(self.proofs)

    def __len__(self) -> int:
        return len(self.proofs)

    def __getitem__(self, name: str) -> UnitProof:
        return {proof.group: proof for proof in self.proofs}[name]

    @property
    def failed(self) -> tuple[UnitProof, ...]:
        """The proofs in which some law does not hold."""
        return tuple(proof for proof in self.proofs if not proof.proven)

    def summary(self) -> str:
        """Return a table for people: one line per group, what its columns mean, then one line per problem.

        Returns:
            The table as text, without a trailing newline. The columns are the attributes of :class:`UnitProof`: *yes*,
            the law was shown; *NO*, it was refuted, and a line below says by what; *-*, neither. The last column names
            the modes in which the model was run.
        """
        columns = ("independent", "sensitive", "minimal", "exclusive", "tapped", "interchangeable")
        rows: list[tuple[str, ...]] = [("group", "units", *columns, "modes")]
        words = {True: "yes", False: "NO", None: "-"}
        for proof in self.proofs:
            verdicts = (words[getattr(proof, column)] for column in columns)
            rows.append((proof.group, str(proof.size), *verdicts, ", ".join(proof.modes)))
        lines = [*aligned(rows), *_LEGEND]
        lines += [f"{proof.group}: {problem}" for proof in self.proofs for problem in proof.problems]
        return "\n".join(lines)


def verify_units(
    model: nn.Module,
    example_inputs: ExampleInputs,
    unit_map: UnitMap,
    *,
    samples: int = 3,
    slots: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> UnitProofs:
    """Prove the groups of ``unit_map`` on ``model``, which is left exactly as it was found.

    The model computes in double precision with weights in generic position (its own, slightly moved, and random ones
    where they are zero), so that an initialisation at zero hides nothing; two outputs are equal if they differ by at
    most 1e-9 of the largest. It runs about ten times plus four times per sampled unit and twice per outgoing slot.

    Args:
        model: The model that ``unit_map`` was found on.
        example_inputs: What it runs on: a tensor, a tuple of arguments, a mapping of keywords, or a callable without
            arguments that runs the model and returns what it computes.
        unit_map: The groups to prove.
        samples: Units per group that are also checked one by one; 0 for none.
        slots: Outgoing slots per group whose need is checked, chosen at random; None checks all.
        dtype: Precision of the proof; float32 (and 1e-4) for models too large for double precision.
        seed: Seed of everything that is drawn.

    Returns:
        One proof per group.

    Raises:
        UnsupportedModelError: If the model cannot run on the example in evaluation mode, returns no tensor, or returns
            something else in a second run with the same weights and random numbers.

    Example:
        >>> from lightning_plasticity.units import discover_units
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> print(verify_units(model, x, discover_units(model, x)).summary())
        group  units  independent  sensitive  minimal  exclusive  tapped  interchangeable  modes
        0      8      yes          yes        yes      yes        yes     yes              evaluation, training
        independent: while nothing reads them, they do not reach the output; sensitive: otherwise they do; minimal: each
        reader is needed; exclusive: the readers read nothing else; tapped: the tap shows them, each at its place;
        interchangeable: two of them can be exchanged (not required); -: neither shown nor refuted
    """
    with sandbox(model, example_inputs, dtype=dtype, seed=seed) as box:
        try:
            before, again = box.run(), box.run()
        except Exception as error:
            raise UnsupportedModelError(
                f"the model does not run on the example: {type(error).__name__}: {error}",
                "inputs that the model accepts in evaluation mode",
                "Pass as `example_inputs` what the model is called with",
            ) from error
        if not before or not difference(before, again) <= box.tolerance:
            raise UnsupportedModelError(
                "the model returned no tensor" if not before else "two identical runs of the model differ",
                "output tensors that follow from the weights, the inputs and the global random generators",
                "Return the output (or the loss) from the callable, and draw from the global generators only",
            )
        modes = _modes(box)
        names = tuple("training" if training else "evaluation" for training in modes)
        proofs = {group.name: UnitProof(group.name, group.size, group.coupled, names) for group in unit_map}
        for coupled in (False, True):
            groups = [group for group in unit_map if group.coupled is coupled]
            if groups:
                _prove(box, groups, modes, proofs, samples, slots)
        return UnitProofs(tuple(proofs.values()), box.runs)


def _modes(box: Sandbox) -> tuple[bool, ...]:
    """Return the modes (``training``) in which the model runs and repeats itself."""
    box.training = True
    try:
        repeats = difference(box.run(), box.run()) <= box.tolerance
    except Exception:
        repeats = False
    return (False, True) if repeats else (False,)


def _prove(
    box: Sandbox,
    groups: Sequence[UnitGroup],
    modes: Sequence[bool],
    proofs: dict[str, UnitProof],
    samples: int,
    slots: int | None,
) -> None:
    for training in modes:
        box.training = training
        together = _choose(box, groups)
        _note(proofs, "independent", False, laws.jointly(laws.independent, box, together))
        for group in groups:
            for unit in box.choose(group.size, samples):
                _note(proofs, "independent", False, laws.independent(box, [(group, unit[None])]))
    box.training = False
    together = _choose(box, groups)
    _prove_exclusive(box, together, proofs)
    for group in groups:
        for problem in laws.disjoint(box, group):
            _note(proofs, "exclusive", False, {group.name: problem})
        for unit in box.choose(group.size, samples):
            _prove_exclusive(box, [(group, unit[None])], proofs)
    _prove_tapped(box, together, proofs)
    _prove_interchangeable(box, together, proofs)
    for group in groups:
        if group.tap is None:
            proofs[group.name].tapped = None
        _prove_needed(box, group, modes, proofs[group.name], slots)


def _choose(box: Sandbox, groups: Sequence[UnitGroup]) -> list[tuple[UnitGroup, Tensor]]:
    return [(group, box.choose(group.size, max(1, round(_JOINT_FRACTION * group.size)))) for group in groups]


def _note(proofs: dict[str, UnitProof], law: str, verdict: bool | None, problems: dict[str, str]) -> None:
    for name, problem in problems.items():
        if getattr(proofs[name], law) is not False:
            setattr(proofs[name], law, verdict)
        proofs[name].problems.append(problem)


def _prove_tapped(box: Sandbox, chosen: laws.Chosen, proofs: dict[str, UnitProof]) -> None:
    """Check the tap; a problem counts if it is seen with all units tried, since one of them may be dead."""
    problems = laws.tapped(box, chosen)
    for group, _ in chosen:
        alone = problems.get(group.name, "")
        for unit in box.choose(group.size, _TRIED) if alone else ():
            alone = alone and laws.tapped(box, [(group, unit[None])]).get(group.name, "")
        _note(proofs, "tapped", False, {group.name: alone} if alone else {})


def _prove_exclusive(box: Sandbox, chosen: laws.Chosen, proofs: dict[str, UnitProof]) -> None:
    if not laws.exclusive(box, chosen):
        return
    problems = laws.separately(laws.exclusive, box, chosen)
    for group, units in chosen:
        if group.name in problems:
            verdict = laws.self_contained(box, [(group, units)])
            if not verdict:
                _note(proofs, "exclusive", verdict, {group.name: problems[group.name]})


def _prove_interchangeable(box: Sandbox, chosen: laws.Chosen, proofs: dict[str, UnitProof]) -> None:
    several = [(group, units) for group, units in chosen if group.size > 1]
    problems = laws.jointly(laws.interchangeable, box, several)
    for group, _ in chosen:
        tried = box.choose(group.size, _TRIED) if group.name in problems else ()
        shown = any(not laws.interchangeable(box, [(group, unit[None])]) for unit in tried)
        proofs[group.name].interchangeable = (group.name not in problems or shown) if group.size > 1 else None
        if proofs[group.name].interchangeable is False:
            proofs[group.name].interchangeable = None


def _prove_needed(box: Sandbox, group: UnitGroup, modes: Sequence[bool], proof: UnitProof, slots: int | None) -> None:
    """Show sensitivity and minimality; some slots (an auxiliary head) are read in one mode only, which is enough."""
    count = len(group.outgoing)
    wanted = [group.outgoing[i] for i in box.choose(count, count if slots is None else slots).tolist()]
    loud: dict[str, str] = {group.name: ""}
    for training in modes:
        box.training = training
        for _ in range(_TRIED):  # a unit may be dead
            loud = loud and laws.sensitive(box, [(group, box.choose(group.size, 2))])
        wanted = [slot for slot in wanted if not laws.minimal(box, group, slot)]
    box.training = False
    _note({group.name: proof}, "sensitive", False, loud)
    for slot in wanted:
        _note({group.name: proof}, "minimal", False, {group.name: f"{slot.path} does not read the units"})
