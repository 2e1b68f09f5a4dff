"""A layer without units that can be treated, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """A layer whose units are left alone.

    Args:
        layer: Dotted name of the layer.
        reason: Why its units cannot be treated.
        remedy: What would help; empty if nothing would.
    """

    layer: str
    reason: str
    remedy: str = ""
