"""Remember what earlier runs concluded about the same operation on the same labels.

The model runs in evaluation and in training mode, and most operations of the second run are those of the first. Rules
change nothing by being applied twice, so what they returned is used again.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

Conclusion = list[Tensor | None]


@dataclass(eq=False)
class Memory:
    """The conclusions of a pass, each with the run in which it was drawn.

    Args:
        known: By operation and labels: the run, the labels of the results, and the labels that were read (held, so that
            nothing else gets their identity).
    """

    known: dict[Hashable, tuple[int, Conclusion, list[Tensor | None]]] = field(default_factory=dict)

    def recall(self, key: Hashable | None, run: int) -> Conclusion | None:
        """Return what a run before ``run`` concluded; in the same run, an operation that recurs is followed again."""
        found = self.known.get(key) if key is not None else None
        return found[1] if found is not None and found[0] < run else None

    def keep(self, key: Hashable | None, run: int, conclusion: Conclusion, read: list[Tensor | None]) -> None:
        """Remember a conclusion of ``run`` for the runs after it."""
        if key is not None:
            self.known[key] = (run, conclusion, read)
