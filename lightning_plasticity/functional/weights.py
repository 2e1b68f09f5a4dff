"""Measures of weights, of their gradients and of what the optimizer does to them.

Wherever ``weights`` stands, one tensor or several of any shapes may be passed; several count as one long vector.
Results are float64 scalars on the device of the first tensor: NaN if an entry is NaN; without entries, norms are 0, and
means and shares are NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.rank import effective_rank

Weights: TypeAlias = Tensor | Iterable[Tensor] | nn.Module


def weight_magnitude(weights: Weights) -> Tensor:
    """Return the mean magnitude of all entries, in ``[0, ∞)``.

    Args:
        weights: A tensor, or several, of any shapes.

    Returns:
        The mean of ``|w|``.

    References:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (average weight magnitude).

    Example:
        >>> weight_magnitude([torch.tensor([-1.0, 3.0]), torch.tensor([[2.0]])])
        tensor(2., dtype=torch.float64)
    """
    tensors = as_tensors(weights)
    entries = sum(tensor.numel() for tensor in tensors)
    return total(tensor.abs().sum(dtype=torch.float64) for tensor in tensors) / entries


def weight_norm(weights: Weights) -> Tensor:
    """Return the Euclidean norm of all entries, ``√Σw²``.

    Args:
        weights: A tensor, or several, of any shapes; gradients serve as well.

    Returns:
        The norm.

    Example:
        >>> weight_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5., dtype=torch.float64)
    """
    return total(_squares(tensor) for tensor in as_tensors(weights)).sqrt()


def spectral_norm(weights: Weights) -> Tensor:
    """Return the largest singular value of a weight matrix; of several, the largest of all.

    Args:
        weights: A tensor, or several, ``[out, *in]``; all dimensions but the first are read as one. Vectors, such as
            biases, are matrices with one column.

    Returns:
        The spectral norm.

    Example:
        >>> spectral_norm(torch.diag(torch.tensor([3.0, 1.0])))
        tensor(3., dtype=torch.float64)
    """
    matrices = [_matrix(tensor) for tensor in as_tensors(weights)]
    norms = [_largest_singular_value(matrix) for matrix in matrices if matrix.numel()]
    return torch.stack(norms).amax() if norms else torch.zeros((), dtype=torch.float64)


def weight_effective_rank(weights: Weights) -> Tensor:
    """Return the effective rank of a weight matrix, see :func:`~lightning_plasticity.functional.effective_rank`.

    Args:
        weights: A tensor, or several, ``[out, *in]``; all dimensions but the first are read as one.

    Returns:
        The effective rank in ``[1, min(out, in)]``; of several matrices, the mean; 0 for zeros.

    Example:
        >>> weight_effective_rank(torch.eye(3))
        tensor(3.0000, dtype=torch.float64)
    """
    tensors = as_tensors(weights)
    return total(effective_rank(_matrix(tensor)) for tensor in tensors) / len(tensors)


def distance_from_initialization(weights: Weights, initial: Weights) -> Tensor:
    """Return the Euclidean distance of weights from those they started with.

    Args:
        weights: A tensor, or several, of any shapes.
        initial: The first values, in the same order and of the same shapes.

    Returns:
        The distance ``‖θ - θ₀‖``.

    Raises:
        InvalidArgumentError: If the shapes differ.

    References:
        Kumar et al., "Maintaining plasticity in continual learning via regenerative regularization", CoLLAs 2024, which
        penalises its square.

    Example:
        >>> distance_from_initialization(torch.tensor([3.0, 4.0]), torch.zeros(2))
        tensor(5., dtype=torch.float64)
    """
    return total(_squares(difference) for difference in _differences(weights, initial)).sqrt()


def update_ratio(weights: Weights, previous: Weights) -> Tensor:
    """Return how far the last step moved weights, relative to their size: ``‖θ - θ'‖ / ‖θ'‖``.

    Args:
        weights: The weights after the step: a tensor, or several, of any shapes.
        previous: The weights before the step, in the same order and of the same shapes.

    Returns:
        The ratio in ``[0, ∞]``; 0 if nothing moved.

    Raises:
        InvalidArgumentError: If the shapes differ.

    References:
        Lyle et al., "Disentangling the causes of plasticity loss in neural networks", CoLLAs 2024 (effective learning
        rate).

    Example:
        >>> update_ratio(torch.tensor([1.1, 0.0]), torch.tensor([1.0, 0.0]))
        tensor(0.1000, dtype=torch.float64)
    """
    moved = distance_from_initialization(weights, previous)
    return torch.where(moved == 0, moved, moved / weight_norm(previous).to(moved.device))


def gradient_norm(gradients: Weights) -> Tensor:
    """Return the Euclidean norm of gradients.

    Args:
        gradients: A tensor, or several, of any shapes.

    Returns:
        The norm.

    Example:
        >>> gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5., dtype=torch.float64)
    """
    return weight_norm(gradients)


def zero_gradient_share(gradients: Weights) -> Tensor:
    """Return the share of entries of gradients that are exactly zero.

    Args:
        gradients: A tensor, or several, of any shapes.

    Returns:
        The share in ``[0, 1]``.

    Example:
        >>> zero_gradient_share(torch.tensor([[0.0, 1.0], [0.0, -2.0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    tensors = as_tensors(gradients)
    entries = sum(tensor.numel() for tensor in tensors)
    hidden = total(0 * tensor.sum(dtype=torch.float64) for tensor in tensors)  # a NaN is no zero, and no number either
    return total((tensor == 0).sum(dtype=torch.float64) for tensor in tensors) / entries + hidden


def optimizer_state_norms(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the Euclidean norm of every kind of state that an optimizer keeps per entry, such as Adam's moments.

    Args:
        optimizer: The optimizer.
        parameters: Parameters to look at; default: all that the optimizer steps.

    Returns:
        Norms by the optimizer's own name of the state, such as ``"exp_avg"``. States that are not of the shape of their
        parameter, such as counters of steps, are left out; so is everything before the first step.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> optimizer_state_norms(optimizer)
        {'momentum_buffer': tensor(5., dtype=torch.float64)}
    """
    if parameters is None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kinds: dict[str, list[Tensor]] = {}
    for parameter in parameters:
        for name, state in optimizer.state.get(parameter, {}).items():
            if isinstance(state, Tensor) and state.shape == parameter.shape and parameter.ndim:
                kinds.setdefault(name, []).append(state)
    return {name: weight_norm(states) for name, states in kinds.items()}


def as_tensors(weights: Weights) -> list[Tensor]:
    """Return weights as a list of detached tensors.

    Args:
        weights: A tensor, several, or a module, which stands for its parameters.

    Returns:
        The tensors.

    Raises:
        InvalidArgumentError: If something else is among them.
    """
    if isinstance(weights, Tensor):
        return [weights.detach()]
    tensors = list(weights.parameters() if isinstance(weights, nn.Module) else weights)
    strangers = sorted({type(each).__name__ for each in tensors if not isinstance(each, Tensor)})
    if strangers:
        raise InvalidArgumentError(
            f"weights of type {', '.join(strangers)}",
            "a tensor, an iterable of tensors, or a module",
            "Pass `model`, `model.parameters()` or a list of tensors",
        )
    return [tensor.detach() for tensor in tensors]


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars on the device of the first; 0 if there are none.

    Args:
        terms: Scalars on any devices.

    Returns:
        The sum.
    """
    terms = list(terms)
    if not terms:
        return torch.zeros((), dtype=torch.float64)
    summed: Tensor = torch.stack([term.to(terms[0].device) for term in terms]).sum()
    return summed


def _squares(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return norm.square()


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.reshape(-1, 1)


def _largest_singular_value(matrix: Tensor) -> Tensor:
    """Return ``σ₁`` through the smaller Gram matrix, which costs its largest eigenvalue no accuracy."""
    rows = matrix.double()
    scale = rows.abs().amax()
    rows = rows / scale.where(scale != 0, 1.0)
    gram = rows.mT @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.mT
    eigenvalue = torch.linalg.eigvalsh(torch.where(gram.isfinite(), gram, 0.0))[-1]
    largest: Tensor = eigenvalue.clamp(min=0).sqrt() * scale
    return largest


def _differences(weights: Weights, others: Weights) -> list[Tensor]:
    tensors, references = as_tensors(weights), as_tensors(others)
    shapes, expected = [list(t.shape) for t in tensors], [list(t.shape) for t in references]
    if shapes != expected:
        raise InvalidArgumentError(
            f"weights of shapes {shapes}",
            f"the shapes of what they are compared with, {expected}",
            "Pass the same tensors in the same order",
        )
    return [
        tensor.double() - other.to(tensor.device).double() for tensor, other in zip(tensors, references, strict=True)
    ]
