"""What was proven of the groups of a map, and the table that says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_plasticity.units.table import aligned

_LEGEND = (
    "independent: while nothing reads them, they do not reach the output; sensitive: otherwise they do; minimal: each",
    "reader is needed; exclusive: the readers read nothing else; complete: nothing that writes them was forgotten;",
    "tapped: the tap shows them, each at its place; -: neither shown nor refuted",
)


@dataclass
class UnitProof:
    """What was shown of one group; None where a law could be neither shown nor refuted.

    Args:
        group: Name of the group.
        size: Number of its units.
        coupled: Whether independence was shown with the statistics of norms held constant.
        modes: The modes in which the model could run and independence was checked.
        independent: With nothing reading them, redrawn units do not reach the output.
        sensitive: With everything in place, they do.
        minimal: Each outgoing slot is needed; None if one is of a weight that acts on nothing, like one whose result is
            thrown away.
        exclusive: The outgoing slots read nothing but the units; None if the units are never silent and have no tap.
        complete: No entry of the units was forgotten; None if fewer than two units act on the output, and if no two
            units that were tried could be exchanged, but are coupled or cannot be differentiated.
        tapped: The tap shows the units, each at its place; None without a tap.
        problems: What was found wrong.
    """

    group: str
    size: int
    coupled: bool
    modes: tuple[str, ...]
    independent: bool = True
    sensitive: bool = True
    minimal: bool | None = True
    exclusive: bool | None = True
    complete: bool | None = True
    tapped: bool | None = True
    problems: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether all laws hold, as far as they apply."""
        units = self.independent and self.sensitive and self.exclusive is True
        return units and False not in (self.minimal, self.complete, self.tapped)

    @property
    def refuted(self) -> bool:
        """Whether some law does not hold."""
        laws = (self.independent, self.sensitive, self.minimal, self.exclusive, self.complete, self.tapped)
        return any(law is False for law in laws)

    def refute(self, law: str, problem: str, verdict: bool | None = False) -> None:
        """Note that a law does not hold, or (None) that it could not be shown."""
        if getattr(self, law) is not False:
            setattr(self, law, verdict)
        self.problems.append(problem)


@dataclass(frozen=True)
class UnitProofs:
    """The proofs of all groups of a map; true as a condition unless a law was refuted: ``assert verify_units(...)``.

    Args:
        proofs: One proof per group, in the order of the map.
        runs: How often the model was run.
    """

    proofs: tuple[UnitProof, ...]
    runs: int

    def __str__(self) -> str:
        return self.summary()

    def __iter__(self) -> Iterator[UnitProof]:
        return iter(self.proofs)

    def __len__(self) -> int:
        return len(self.proofs)

    def __bool__(self) -> bool:
        return not self.failed

    def __getitem__(self, name: str) -> UnitProof:
        return {proof.group: proof for proof in self.proofs}[name]

    @property
    def failed(self) -> tuple[UnitProof, ...]:
        """The proofs in which some law was refuted; one that could neither be shown nor refuted is not among them."""
        return tuple(proof for proof in self.proofs if proof.refuted)

    def summary(self) -> str:
        """Return a table for people: one line per group, what its columns mean, then one line per problem.

        Returns:
            The table as text, without a trailing newline. The columns are the attributes of :class:`UnitProof`: *yes*,
            the law was shown; *NO*, it was refuted, and a line below says by what; *-*, neither. The last column names
            the modes in which the model was run.
        """
        columns = ("independent", "sensitive", "minimal", "exclusive", "complete", "tapped")
        rows: list[tuple[str, ...]] = [("group", "units", *columns, "modes")]
        words = {True: "yes", False: "NO", None: "-"}
        for proof in self.proofs:
            verdicts = (words[getattr(proof, column)] for column in columns)
            rows.append((proof.group, str(proof.size), *verdicts, ", ".join(proof.modes)))
        lines = [*aligned(rows), *_LEGEND]
        lines += [f"{proof.group}: {problem}" for proof in self.proofs for problem in proof.problems]
        return "\n".join(lines)
