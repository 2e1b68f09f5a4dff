"""Units that have stopped working: dormant, dead, saturated, duplicate.

Letters: ``N`` samples, ``U`` units.

Shares are float64 scalars in ``[0, 1]``, NaN if an activation is not finite or if there is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.functional.spectrum import Positions, as_samples


def unit_scores(activations: Tensor, *, positions: Positions = "samples") -> Tensor:
    """Return the mean magnitude of every unit relative to the mean of its layer.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        Scores ``[U]``, float64, with mean 1; zeros for a layer that is all zero, NaN without samples and where one is.

    References:
        Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023, equation 1.

    Example:
        >>> unit_scores(torch.tensor([[0.0, 1.0, -3.0], [0.0, 1.0, 1.0]]))
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    return relative_scores(as_samples(activations, positions).abs().mean(0, dtype=torch.float64))


def relative_scores(magnitudes: Tensor) -> Tensor:
    """Return the magnitudes of units relative to their mean.

    Args:
        magnitudes: A sum or mean of magnitudes per unit, ``[U]``.

    Returns:
        Scores ``[U]`` with mean 1; zeros if all magnitudes are zero.
    """
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
        Mask ``[U]``, bool; every unit of a layer that is all zero is dormant, none without samples.

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
        The share; 1 for a layer that is all zero.

    Example:
        >>> dormant_unit_ratio(torch.tensor([[0.0, 0.1, 8.0, 8.0], [0.0, 0.1, 8.0, 8.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    scores = unit_scores(activations, positions=positions)
    return share_of_units(scores <= threshold, scores)


def gradient_dormant_ratio(gradients: Tensor, threshold: float = 0.025, *, positions: Positions = "samples") -> Tensor:
    """Return the share of units whose gradient is small beside the mean of their layer.

    The measure is :func:`dormant_unit_ratio` of ``∂loss/∂activation``: a unit may be active and yet not learn.

    Args:
        gradients: Gradients of the loss by the activations, ``[N, U]``, or of maps, ``[N, U, *positions]``.
        threshold: Largest score of a dormant unit.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share; 1 for a layer without gradient.

    References:
        Liu et al., "Measure gradients, not activations! Enhancing neuronal activity in deep reinforcement learning",
        arXiv 2505.24061, 2025.

    Example:
        >>> gradient_dormant_ratio(torch.tensor([[0.0, 2.0], [0.0, -1.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    return dormant_unit_ratio(gradients, threshold, positions=positions)


def dead_unit_ratio(activations: Tensor, *, positions: Positions = "samples") -> Tensor:
    """Return the share of dead units: those that are zero on every sample.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share; 1 for a layer that is all zero.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (online permuted MNIST).

    Example:
        >>> dead_unit_ratio(torch.tensor([[0.0, -1e-9, 3.0], [0.0, 0.0, 3.0]]))
        tensor(0.3333, dtype=torch.float64)
    """
    scores = unit_scores(activations, positions=positions)
    return share_of_units(scores == 0, scores)


def dormant_by_frequency(activations: Tensor, frequency: float = 0.01, *, positions: Positions = "samples") -> Tensor:
    """Return the share of units that are active, that is above zero, on less than a share ``frequency`` of the samples.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        frequency: Share of samples from which on a unit counts as active, in ``(0, 1]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share; 1 for a layer that is all zero.

    Raises:
        InvalidArgumentError: If ``frequency`` is out of range.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (incremental CIFAR-100). Their
        code counts activations that are not zero, which for ReLU is the same.

    Example:
        >>> x = torch.ones(200, 2)
        >>> x[1:, 0] = 0
        >>> dormant_by_frequency(x)
        tensor(0.5000, dtype=torch.float64)
    """
    check_number("frequency", frequency, "(0, 1]")
    share = _active_share(activations, positions)
    return share_of_units(share < frequency, share)


def active_fraction(activations: Tensor, *, positions: Positions = "samples") -> Tensor:
    """Return the mean share of the samples on which a unit is active, that is above zero.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share; 0 for a layer that is all zero.

    References:
        Ma et al., "Revisiting plasticity in visual reinforcement learning", ICLR 2024 (fraction of active units).

    Example:
        >>> active_fraction(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        tensor(0.7500, dtype=torch.float64)
    """
    return _active_share(activations, positions).mean()


def _active_share(activations: Tensor, positions: Positions) -> Tensor:
    rows = as_samples(activations, positions)
    return (rows > 0).mean(0, dtype=torch.float64) + 0 * rows.sum(0, dtype=torch.float64)


def saturated_unit_ratio(
    activations: Tensor,
    bounds: tuple[float, float] = (-1.0, 1.0),
    *,
    tolerance: float = 0.01,
    frequency: float = 0.99,
    positions: Positions = "samples",
) -> Tensor:
    """Return the share of units that are stuck at a bound of their activation function.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        bounds: Smallest and largest value of the activation function: ``(-1, 1)`` for tanh, ``(0, 1)`` for sigmoid.
        tolerance: Distance from a bound that counts as being there, as a share of half the range, in ``(0, 1]``.
        frequency: Share of the samples at a bound from which on a unit is stuck, in ``(0, 1]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share.

    Raises:
        InvalidArgumentError: If a share is out of range or the bounds are not in order.

    Example:
        >>> saturated_unit_ratio(torch.tensor([[0.999, 0.2], [-0.995, 1.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    check_number("frequency", frequency, "(0, 1]")
    rows = as_samples(activations, positions)
    share = at_bounds(rows, bounds, tolerance).mean(0, dtype=torch.float64)
    return share_of_units(share >= frequency, rows)


def at_bounds(activations: Tensor, bounds: tuple[float, float], tolerance: float) -> Tensor:
    """Return which activations lie at a bound of their activation function.

    Args:
        activations: Of any shape.
        bounds: Smallest and largest value of the activation function.
        tolerance: Distance from a bound that counts as being there, as a share of half the range, in ``(0, 1]``.

    Returns:
        Mask of the shape of ``activations``.

    Raises:
        InvalidArgumentError: If ``tolerance`` is out of range or the bounds are not in order.
    """
    check_number("tolerance", tolerance, "(0, 1]")
    lower, upper = bounds
    if not lower < upper:
        raise InvalidArgumentError(f"bounds={bounds}", "a smaller and a larger number", "Use (-1, 1) for tanh")
    margin = tolerance * (upper - lower) / 2
    return (activations <= lower + margin) | (activations >= upper - margin)


def duplicate_unit_ratio(activations: Tensor, threshold: float = 0.95, *, positions: Positions = "samples") -> Tensor:
    """Return the share of units that do what another unit does: their correlation exceeds ``threshold`` in magnitude.

    Args:
        activations: Samples by units, ``[N, U]``, or maps ``[N, U, *positions]``.
        threshold: Largest magnitude of a correlation between units that differ, in ``(0, 1]``.
        positions: Whether the positions of a map are ``"samples"`` or are replaced by their ``"mean"``.

    Returns:
        The share. Units that do not vary, such as dead ones, correlate with none.

    Raises:
        InvalidArgumentError: If ``threshold`` is out of range.

    References:
        Joudaki et al., "Barriers for learning in an evolving world", ICLR 2026.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> duplicate_unit_ratio(torch.stack([x, 5 - 2 * x, x % 2, 0 * x], dim=1))
        tensor(0.5000, dtype=torch.float64)
    """
    check_number("threshold", threshold, "(0, 1]")
    rows = as_samples(activations, positions).double()
    return share_of_units(duplicates(rows - rows.mean(0), rows, threshold), rows)


def duplicates(centered: Tensor, rows: Tensor, threshold: float) -> Tensor:
    """Return which units correlate with another one.

    Args:
        centered: A factor of the centred activations, ``[R, U]``.
        rows: A factor of the activations as they are, ``[R, U]``; tells what in ``centered`` is rounding.
        threshold: Largest magnitude of a correlation between units that differ.

    Returns:
        Mask ``[U]``.
    """
    norms = centered.norm(dim=0)
    varies = norms > 1e-10 * rows.norm(dim=0)
    unit = torch.where(varies, centered / norms.where(varies, 1.0), 0.0)
    return ((unit.mT @ unit).abs().fill_diagonal_(0.0) > threshold).any(0)


def share_of_units(mask: Tensor, evidence: Tensor) -> Tensor:
    """Return the share of the units that are set in a mask.

    Args:
        mask: ``[U]``, bool.
        evidence: What the mask was made of; a comparison hides values that are not finite, this function does not.

    Returns:
        The share in ``[0, 1]``, a float64 scalar; NaN without units or evidence, or if some evidence is not finite.
    """
    is_sound = evidence.isfinite().all() & (evidence.numel() > 0)
    return mask.double().mean().where(is_sound, torch.nan)
