"""Units that have stopped working: dormant, dead, saturated, duplicate.

Letters: ``N`` samples, ``U`` units.

Every public function takes activations; every private one of the same name takes the sums over samples that it needs,
so that the classes of :mod:`lightning_plasticity.metrics` share them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.functional.spectrum import Positions, as_samples


def unit_scores(activations: Tensor, *, positions: Positions = "samples") -> Tensor:
    """Return the mean magnitude of every unit relative to the mean of its layer.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        Scores ``[U]``, float64, with mean 1; zeros for a layer that is all zero or empty, NaN where an activation is.

    References:
        Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023, equation 1.

    Example:
        >>> unit_scores(torch.tensor([[0.0, 1.0, -3.0], [0.0, 1.0, 1.0]]))
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    return _unit_scores(as_samples(activations, positions).double().abs().sum(0))


def _unit_scores(magnitudes: Tensor) -> Tensor:
    mean = magnitudes.mean()
    return magnitudes / mean.where(mean != 0, 1.0)


def dormant_units(activations: Tensor, threshold: float = 0.025, *, positions: Positions = "samples") -> Tensor:
    """Return which units are dormant: their score, see :func:`unit_scores`, is at most ``threshold``.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        threshold: Largest score of a dormant unit. The paper measures with 0.025 and replaces at 0.1; at 0 a unit is
            dormant if it was never active.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        Mask ``[U]``, bool; every unit of a layer that is all zero or empty is dormant.

    References:
        Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023, definition 3.1.

    Example:
        >>> dormant_units(torch.tensor([[0.0, 0.1, 8.0, 8.0], [0.0, 0.1, 8.0, 8.0]]))
        tensor([ True,  True, False, False])
    """
    return unit_scores(activations, positions=positions) <= threshold


def dormant_unit_ratio(activations: Tensor, threshold: float = 0.025, *, positions: Positions = "samples") -> Tensor:
    """Return the share of dormant units, see :func:`dormant_units`.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        threshold: Largest score of a dormant unit.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share in ``[0, 1]``, a float64 scalar; 1 for a layer that is all zero, NaN if an activation is NaN.

    Example:
        >>> dormant_unit_ratio(torch.tensor([[0.0, 0.1, 8.0, 8.0], [0.0, 0.1, 8.0, 8.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    scores = unit_scores(activations, positions=positions)
    return _ratio(scores <= threshold, scores)


def _ratio(mask: Tensor, evidence: Tensor) -> Tensor:
    """Return the share of set units; NaN if the evidence is not finite, since a comparison would hide it."""
    share = mask.double().mean() if mask.numel() else torch.ones((), dtype=torch.float64, device=mask.device)
    return share.where(evidence.isfinite().all(), torch.nan)
