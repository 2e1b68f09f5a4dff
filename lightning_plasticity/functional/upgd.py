"""Utility-based perturbed gradients on tensors: what a weight or a unit is worth, and how much of a step it gets.

Notation of the docstrings: weight ``w``, gradient ``g`` of the loss, curvature ``h`` (the diagonal of its Hessian),
utility ``u``, scaled utility ``S``. All functions are pure and work on any shape and device.

References:
    Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning` (ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError


def weight_utility(weight: Tensor, gradient: Tensor, curvature: Tensor | None = None) -> Tensor:
    r"""Return by how much the loss would rise if each weight were zero, to first or second order.

    :math:`u = -g w` and, with curvature, :math:`u = -g w + \tfrac12 h w^2`; in units of the loss, of either sign.

    Args:
        weight: The weights before the step, any shape.
        gradient: Gradient of the loss, of the same shape.
        curvature: Diagonal of the Hessian of the loss, of the same shape; None leaves the second order out.

    Returns:
        The utilities, of the same shape; 0 where the result is not finite, so that one bad gradient leaves no trace.

    References:
        Elsayed and Mahmood (ICLR 2024), Algorithm 1; `-g w` alone is its first-order form.

    Example:
        >>> w, g = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([-1.0, 0.5, float("nan")])
        >>> weight_utility(w, g)
        tensor([ 2.0000, -0.5000,  0.0000])
        >>> weight_utility(w, g, curvature=torch.full((3,), 2.0))
        tensor([6.0000, 0.5000, 0.0000])
    """
    slope = gradient if curvature is None else gradient - 0.5 * curvature * weight
    return torch.nan_to_num(-slope * weight, nan=0.0, posinf=0.0, neginf=0.0)


def unit_utility(activation: Tensor, gradient: Tensor, curvature: Tensor | None = None, dim: int = -1) -> Tensor:
    r"""Return by how much the loss would rise if each unit were silent, to first or second order.

    The unit is given a gate that multiplies its activation; the utility is that of the gate, whose value is 1:
    :math:`u_j = -\sum_n h_{nj} \, \partial L / \partial h_{nj}` plus half of
    :math:`\sum_n h_{nj}^2 \, \partial^2 L / \partial h_{nj}^2` with curvature. Samples and positions are summed over.

    For a unit that is read only by linear layers and convolutions this equals the sum of :func:`weight_utility` over
    its outgoing weights, because scaling a unit and scaling its outgoing weights are the same thing. The published
    code obtains it from gate parameters inside of the model instead.

    Args:
        activation: Activations, any shape with the units along ``dim``.
        gradient: Gradient of the loss by the activations, of the same shape.
        curvature: Second derivative of the loss by each activation, of the same shape; None leaves it out.
        dim: The dimension of the units.

    Returns:
        The utilities, ``[U]``, in units of the loss; 0 for a silent unit and where a term is not finite.

    References:
        Elsayed and Mahmood (ICLR 2024), the feature-wise variant.

    Example:
        >>> unit_utility(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[-1.0, 5.0], [-3.0, 5.0]]))
        tensor([7., 0.])
    """
    utility = weight_utility(activation, gradient, curvature)
    return utility.movedim(dim, -1).flatten(0, -2).sum(0) if utility.ndim > 1 else utility


def largest_utility(utilities: Iterable[Tensor], *, absolute: bool = False) -> Tensor:
    """Return the largest entry of all utilities, the divisor of the ``global`` (or ``abs``) scaling.

    It is at least the smallest normal number: as the largest utility falls to zero, the scaled utility of a useful
    weight keeps its limit, a harmful one gets 0 and a neutral one 1/2. The published code divides by whatever the
    largest entry is: by a negative number, which turns the order around, or by zero.

    Args:
        utilities: Tensors of utilities, each of any shape; empty ones are ignored.
        absolute: Take absolute values first (``abs``), which bounds the scaled utility to ``[0.27, 0.73]``.

    Returns:
        A positive scalar.

    Raises:
        InvalidArgumentError: If there is no entry at all.

    Example:
        >>> largest_utility([torch.tensor([1.0, -4.0]), torch.tensor([3.0])])
        tensor(3.)
        >>> bool(largest_utility([torch.tensor([-1.0])]) > 0)
        True
    """
    largest = [(u.abs() if absolute else u).amax() for u in utilities if u.numel()]
    if not largest:
        raise InvalidArgumentError("no utility at all", "at least one entry", "Leave empty tensors out")
    return torch.stack([value.to(largest[0]) for value in largest]).amax().clamp_min(torch.finfo(largest[0].dtype).tiny)


def utility_norm(utility: Tensor, *, last_axis: bool = False) -> Tensor:
    """Return the Euclidean norm of the utilities of each unit's incoming weights, the divisor of ``local`` scaling.

    Args:
        utility: Utilities of one tensor; with two or more dimensions the first one is that of the units.
        last_axis: Take the norm along the last dimension only, as the published code does. For a linear layer that is
            the same; for a convolution it is one norm per row of every kernel.

    Returns:
        The norms, in the shape of ``utility`` with the summed dimensions of size 1; at least 1e-12, so that a unit
        without any utility keeps 1/2.

    Example:
        >>> utility_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5.0000e+00],
                [1.0000e-12]])
    """
    dims = tuple(range(utility.ndim))
    dims = dims[-1:] if last_axis or utility.ndim < 2 else dims[1:]
    norm: Tensor = torch.linalg.vector_norm(utility, dim=dims or None, keepdim=True)
    return norm.clamp_min(1e-12)


def scaled_utility(utility: Tensor, divisor: Tensor | float) -> Tensor:
    r"""Return the scaled utility :math:`S = \sigma(u / \eta)`, with the logistic sigmoid.

    Args:
        utility: Utilities, any shape; corrected for the start of their running average where that matters.
        divisor: The positive divisor :math:`\eta`: :func:`largest_utility` or :func:`utility_norm`.

    Returns:
        The scaled utilities, of the same shape, in ``(0, 1)``; 1/2 for a utility of 0. With the largest utility as
        divisor they end at 0.73, so no weight is ever fully protected.

    References:
        Elsayed and Mahmood (ICLR 2024), Algorithm 1.

    Example:
        >>> scaled_utility(torch.tensor([2.0, 0.0, -2.0]), 2.0)
        tensor([0.7311, 0.5000, 0.2689])
    """
    return torch.sigmoid(utility / divisor)


def perturbed_gradient(
    gradient: Tensor,
    noise: Tensor | float,
    scaled: Tensor,
    *,
    protecting: bool = True,
    gate_scale: float = 1.0,
) -> Tensor:
    r"""Return the gradient and the noise as the utility lets them through.

    Protecting: :math:`c \, (g + \xi)(1 - S)`; non-protecting: :math:`g + c \, \xi (1 - S)`.

    Args:
        gradient: Gradient of the loss, any shape.
        noise: Noise of the scale of the gradient (not of the weights), broadcastable; 0 for none.
        scaled: Scaled utility in ``[0, 1]``, broadcastable.
        protecting: Whether useful weights keep part of their gradient away as well, or only the noise.
        gate_scale: The factor :math:`c`: 1 as in the paper's experiments, where a weight of no utility takes half a
            step; 2 as in the authors' stand-alone optimizer, where it takes a whole one.

    Returns:
        The direction to descend along, of the shape of ``gradient``.

    References:
        Elsayed and Mahmood (ICLR 2024), eq. 3 and Algorithm 1, in the protecting and the non-protecting form.

    Example:
        >>> perturbed_gradient(torch.tensor([2.0, 2.0]), 0.0, torch.tensor([0.0, 0.5]))
        tensor([2., 1.])
        >>> perturbed_gradient(torch.tensor([2.0, 2.0]), 1.0, torch.tensor([0.0, 0.5]), protecting=False)
        tensor([3.0000, 2.5000])
    """
    gate = gate_scale * (1 - scaled)
    return (gradient + noise) * gate if protecting else gradient + noise * gate
