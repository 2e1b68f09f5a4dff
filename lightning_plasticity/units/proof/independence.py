"""Whether units reach the output only through what is said to read them."""

from __future__ import annotations

from torch import Tensor

from lightning_plasticity.units.proof.comparison import difference, moved_units
from lightning_plasticity.units.proof.laws import Chosen, Problems, about, cut, halves, redraw
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.proof.watching import run_watched
from lightning_plasticity.units.statistics import FrozenStatistics


def independent(box: Sandbox, chosen: Chosen) -> Problems:
    """Return the groups whose redrawn units reach the output though their outgoing slots are zero."""
    return unread(box, chosen)[0]


def unread(box: Sandbox, chosen: Chosen, scale: float = 1.0) -> tuple[Problems, dict[str, Tensor]]:
    """Redraw units that nothing reads: the output must stay, and the taps should show these units and no others.

    Args:
        box: The model.
        chosen: Groups and units.
        scale: The size of the new entries, relative to the old ones; 1 is tried if another gives no finite output.

    Returns:
        What breaks independence, by group; and by group which units moved at the tap, ``[U]``, unless something does.
    """
    frozen = [FrozenStatistics()] if any(group.coupled for group, _ in chosen) else []
    with box.edited():
        cut(box, chosen)
        before, seen = run_watched(box, chosen, *frozen)
        for size in dict.fromkeys((scale, 1.0)) if box.is_finite(before) else ():
            with box.edited():
                redraw(box, chosen, size)
                cut(box, chosen)  # a redrawn row of one unit may hold a column of another
                after, now = run_watched(box, chosen, *(f.replay() for f in frozen))
            change = difference(before, after)
            if change > box.tolerance:
                return about(chosen, f"redrawn, they change the output by {change:.1e} though nothing reads them"), {}
            if change <= box.tolerance:
                return {}, {name: moved_units(seen[name], now[name], box.tolerance) for name in seen if seen[name]}
    if not box.is_finite(before):
        return _unread_in_halves(box, chosen, scale)
    return about(chosen, "no redraw leaves the output finite, or the model fails"), {}


def _unread_in_halves(box: Sandbox, chosen: Chosen, scale: float) -> tuple[Problems, dict[str, Tensor]]:
    """Return what :func:`unread` finds with fewer units at a time; a single one must be removable."""
    problems: Problems = {}
    moved: dict[str, Tensor] = {}
    for part in halves(chosen):
        wrong, now = unread(box, part, scale)
        problems |= wrong
        moved |= {name: units | moved[name] if name in moved else units for name, units in now.items()}
    if not halves(chosen):
        problems = about(chosen, "once nothing reads them, the model fails, or its output is not finite")
    return problems, {} if problems else moved
