"""How unusual a unit's silence is, by its own inter-firing times.

A unit fires in an optimizer step if one of its activations in it exceeds a threshold. The steps between two firings are
counted in a histogram per unit, in bins whose width grows with the time: exact up to 16 steps, within a tenth
beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_plasticity.errors import check_number
from lightning_plasticity.replacement.memory import Field, Memory, State
from lightning_plasticity.replacement.statistic import Samples
from lightning_plasticity.replacement.watch import Reading
from lightning_plasticity.units import UnitGroup

_BINS_PER_OCTAVE = 8
_BINS = 128
_LONGEST = 2 ** (_BINS / _BINS_PER_OCTAVE)


@dataclass(frozen=True)
class InterFiringTime:
    r"""Probability that a unit, going by its own past, stays silent for longer than it has been, in ``[0, 1]``.

    With ``n`` inter-firing times of the unit, of which ``k`` are longer than the silence under way, and the same share
    :math:`P` for the whole layer, the score is :math:`(k + w P) / (n + w)`: the unit's own past counts from the start
    and dominates after :math:`w` firings, while one that never fired is judged by its layer. A score of at most
    :math:`\eta` says that the silence has reached the :math:`(1 - \eta)` quantile. It is 1 for a unit that has just
    fired, and for a layer in which nothing has fired yet.

    Args:
        firing_threshold: A unit fires when the magnitude of an activation exceeds this. 0 suits ReLU; activations that
            are never exactly 0 need a larger one.
        prior_weight: How many firings the layer's distribution counts for, :math:`w`, greater than 0.

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    References:
        Farias and Jozefiak, `Self-normalized resets for plasticity in continual learning` (ICLR 2025). There the
        threshold of a unit is adapted in steps towards the quantile of a histogram that outlives its resets; here the
        quantile is read off directly, and a new unit starts with the layer's. On several processes each counts its own
        samples and the histograms are averaged before a decision.
    """

    firing_threshold: float = 0.0
    prior_weight: float = 100.0

    reads_activation: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("firing_threshold", self.firing_threshold, "[0, inf]", remedy="Pass 0 for ReLU")
        check_number(
            "prior_weight",
            self.prior_weight,
            "(0, inf)",
            meaning="a number of firings",
            remedy="Pass 100 to judge a unit by its layer until it has fired about as often",
        )

    def fields(self) -> Mapping[str, Field]:
        """Return the steps since the last firing, the histogram of earlier ones, and the firings of the step."""
        return {"silence": Field(), "times": Field(width=_BINS), "fired": Field(lasts="step")}

    def observe(self, state: State, reading: Reading) -> None:
        """Count the firings of a forward pass."""
        fired = reading.activation.abs() > self.firing_threshold
        state["fired"] += reading.sum(fired).sum(1)

    def update(self, memory: Memory, samples: Samples) -> None:
        """Close the inter-firing time of units that fired, let the others be silent for one more step."""
        for position in samples:
            state = memory.parts[position]
            fired = (state["fired"] > 0).to(state["silence"].dtype)
            silence = state["silence"].add_(1)
            state["times"].scatter_add_(1, _bin(silence)[:, None], fired[:, None])
            silence.mul_(1 - fired)
        memory.clear("fired", samples)

    def score(self, state: State, group: UnitGroup, age: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probability of a longer silence."""
        times, silence = state["times"].double(), state["silence"]
        here = _bin(silence.clamp_min(1))[:, None]
        longer = times.flip(1).cumsum(1).flip(1) - times  # in later bins
        layer = longer.sum(0)[here[:, 0]] / times.sum().clamp_min(1)
        own = longer.gather(1, here)[:, 0]
        share = (own + self.prior_weight * layer) / (times.sum(1) + self.prior_weight)
        return torch.where((silence > 0) & (times.sum() > 0), share, 1.0)


def _bin(steps: Tensor) -> Tensor:
    """The bin of an inter-firing time of at least one step."""
    return (steps.clamp(1, _LONGEST).log2() * _BINS_PER_OCTAVE + 1e-3).long().clamp_max(_BINS - 1)
