"""Singular values of feature matrices, exact where squaring would lose them, and factors that add up over batches.

Letters: ``N`` samples, ``D`` features, ``R`` rows of a factor, ``K`` singular values.

A *factor* of features ``X`` is any matrix ``F`` with ``FᵀF = XᵀX``: it has the singular values of ``X`` and at most
``D`` rows, and two factors stacked are a factor of the union of their samples. It carries what the Gram matrix
carries, without the loss of half the digits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError, check_flags

Positions = Literal["samples", "mean"]

# A Gram matrix in float64 knows singular values down to about 1e-8 of the largest. Above this share of the largest
# eigenvalue the square root loses no digit that a measure of rank could show; below it the slower way is taken.
_SAFE_EIGENVALUE = 1e-8
# Columns up to which a Gram matrix is computed in one piece; of a larger one, only the lower triangle is.
_BLOCK = 320


def as_samples(features: Tensor, positions: Positions = "samples") -> Tensor:
    """Return features as samples by features, ``[N, D]``.

    Args:
        features: ``[N, D]``, or maps ``[N, D, *positions]`` such as those of a convolution.
        positions: What the positions of a map are: further ``"samples"`` or values whose ``"mean"`` is the feature.

    Returns:
        The features, ``[N', D]``, detached, in their own dtype.

    Raises:
        InvalidArgumentError: If they are no tensor, have fewer than two dimensions, or ``positions`` is unknown.

    Example:
        >>> as_samples(torch.zeros(4, 3, 5, 5)).shape, as_samples(torch.zeros(4, 3, 5, 5), "mean").shape
        (torch.Size([100, 3]), torch.Size([4, 3]))
    """
    if not isinstance(features, Tensor):
        raise InvalidArgumentError(
            f"features of type {type(features).__name__}", "a tensor", "Convert them with `torch.as_tensor(features)`"
        )
    if features.ndim < 2:
        raise InvalidArgumentError(
            f"features of shape {list(features.shape)}",
            "samples by features, [N, D], or maps [N, D, *positions]",
            "Add the missing dimension, for example with `features[None]`",
        )
    if positions not in {"samples", "mean"}:
        raise InvalidArgumentError(f"positions={positions!r}", "'samples' or 'mean'", "Choose one of the two")
    features = features.detach()
    if features.ndim == 2:
        return features
    if positions == "mean":
        return features.flatten(2).to(torch.promote_types(features.dtype, torch.float32)).mean(2)
    return features.movedim(1, -1).reshape(-1, features.shape[1])


def rounding_unit(dtype: torch.dtype) -> float:
    """Return the relative spacing of the numbers of a dtype; 0 for integers, which are exact."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def rounding_noise(norm: Tensor, samples: Tensor | int, features: int, epsilon: Tensor | float) -> Tensor:
    """Return the largest singular value that rounding alone puts into a feature matrix.

    Rounding to a spacing ``ε`` adds to every entry an error of at most ``ε/√12`` of the entry, in the mean square. A
    matrix of such errors has singular values up to ``s(√N + √D)`` (Marchenko and Pastur, 1967), ``s`` being its root
    mean square. The bound is doubled, because the errors of the matrix product that made the features are as large.

    Args:
        norm: Frobenius norm of the features.
        samples: Number of samples ``N``.
        features: Number of features ``D``.
        epsilon: Relative spacing of the numbers in which the features were computed, see :func:`rounding_unit`.

    Returns:
        The noise level, in the unit of ``norm``; 0 without samples.

    Example:
        >>> norm = torch.randn(4096, 512).norm()
        >>> round(float(rounding_noise(norm, 4096, 512, rounding_unit(torch.bfloat16))), 2)
        0.39
    """
    n = torch.as_tensor(samples, dtype=norm.dtype, device=norm.device)
    noise = norm * (2 * epsilon / 12**0.5) * (n.rsqrt() + max(features, 1) ** -0.5)
    return torch.where(n > 0, noise, torch.zeros_like(noise))


def singular_values(features: Tensor) -> Tensor:
    """Return the singular values of features in float64, as exact as a singular value decomposition.

    They are the square roots of the eigenvalues of the smaller Gram matrix where that costs no accuracy, which is
    several times faster; otherwise of the decomposition of the features themselves.

    Args:
        features: Samples by features, ``[N, D]``.

    Returns:
        ``[min(N, D)]`` in descending order; all NaN if a feature is not finite.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    rows, scale = _scaled(features)
    if min(rows.shape) == 0:
        return rows.new_zeros(0)
    count = min(rows.shape)
    rows = rows if rows.shape[0] > rows.shape[1] else rows.mT
    gram, alive = _lower_gram(rows)
    eigenvalues = torch.linalg.eigvalsh(gram).flip(-1)
    is_safe = bool((eigenvalues[-1:] > _SAFE_EIGENVALUE * eigenvalues[:1]).all())
    sigma: Tensor = eigenvalues.sqrt() if is_safe else torch.linalg.svdvals(rows[:, alive])
    return torch.nn.functional.pad(sigma, (0, count - len(sigma))) * scale


def spectrum(features: Tensor, centered: bool, noise_floor: float | None, positions: Positions) -> Tensor:
    """Return the singular values of features, those that may be noise set to zero.

    Args:
        features: Samples by features, ``[N, D]``, or maps ``[N, D, *positions]``.
        centered: Subtract the mean of every feature first.
        noise_floor: Share of the largest singular value up to which the others are noise; None for what rounding to
            half precision can produce, see :func:`rounding_noise`, and nothing at higher precision.
        positions: What the positions of a map are, see :func:`as_samples`.

    Returns:
        ``[min(N, D)]`` in descending order, float64; all NaN if a feature is not finite, one NaN if there are none.

    Example:
        >>> spectrum(torch.diag(torch.tensor([1.0, 0.1])), centered=False, noise_floor=0.2, positions="samples")
        tensor([1., 0.], dtype=torch.float64)
    """
    check_flags(centered=centered)
    rows = as_samples(features, positions).double()
    if centered and rows.shape[0]:
        rows = rows - rows.mean(0)
    samples, size = rows.shape
    return without_noise(singular_values(rows), samples, size, rounding_unit(features.dtype), noise_floor)


def without_noise(
    sigma: Tensor, samples: Tensor | int, features: int, epsilon: Tensor | float, noise_floor: float | None
) -> Tensor:
    """Return singular values, those that may be noise set to zero; see :func:`spectrum`.

    Args:
        sigma: Singular values ``[K]``, in descending order.
        samples: Number of samples ``N``.
        features: Number of features ``D``.
        epsilon: Relative spacing of the numbers of the features.
        noise_floor: As in :func:`spectrum`.

    Returns:
        ``[K]``; NaN stays NaN, and a single NaN stands for the spectrum of no features at all.
    """
    if not sigma.numel():
        return sigma.new_full((1,), torch.nan)
    if noise_floor is not None:
        floor = noise_floor * sigma[:1]
    else:
        is_half = epsilon > rounding_unit(torch.float32)
        floor = rounding_noise(sigma.norm(), samples, features, epsilon) * is_half
    return sigma.where(~(sigma <= floor), 0.0)


def compress(factor: Tensor) -> Tensor:
    """Return a factor with the same Gram matrix and at most ``D`` rows.

    By a Cholesky decomposition of the Gram matrix where that costs no accuracy, otherwise by Householder reflections.

    Args:
        factor: Rows by features, ``[R, D]``, float64.

    Returns:
        The factor, ``[min(R, D), D]``; the argument itself if it has no more rows than features. NaN stays NaN.

    Example:
        >>> rows = torch.arange(12, dtype=torch.float64).reshape(6, 2)
        >>> small = compress(rows)
        >>> small.shape, torch.allclose(small.T @ small, rows.T @ rows)
        (torch.Size([2, 2]), True)
    """
    if factor.shape[0] <= factor.shape[1]:
        return factor
    rows, scale = _scaled(factor)
    gram, alive = _lower_gram(rows)
    triangle, failed = torch.linalg.cholesky_ex(gram)
    is_safe = not failed and _is_well_conditioned(triangle)
    small = rows.new_zeros(rows.shape[1], rows.shape[1])
    root: Tensor = triangle.mT if is_safe else torch.linalg.qr(rows[:, alive], mode="r").R
    small[: len(root), alive] = root
    return small * scale


def shrink(factor: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Frequent Directions sketch of a factor: its leading directions, all shortened alike.

    With ``δ`` the largest squared singular value that does not fit, each of the others is reduced to ``√(σ² - δ)``.
    Every eigenvalue of the Gram matrix falls by at most ``δ``, and over any sequence of such steps by at most the sum
    of their ``δ``, which is at most ``‖X - X_k‖_F² / (rows + 1 - k)`` for every ``k ≤ rows``, where ``X_k`` is the best
    approximation of rank ``k``. Sketches stack like factors.

    Args:
        factor: Rows by features, ``[R, D]``, float64.
        rows: Rows to keep; at least 1 and fewer than ``R``.

    Returns:
        The sketch ``[rows, D]``, the ``δ`` of this step, and the squared Frobenius norm that was lost.

    References:
        Ghashami et al., "Frequent directions: simple and deterministic matrix sketching", SIAM Journal on Computing
        45, 2016, theorem 1.1.

    Example:
        >>> sketch, delta, lost = shrink(torch.diag(torch.tensor([3.0, 2.0, 1.0])).double(), 2)
        >>> singular_values(sketch).square().round(), delta.round(), lost.round()
        (tensor([8., 3.], dtype=torch.float64), tensor(1., dtype=torch.float64), tensor(3., dtype=torch.float64))
    """
    scaled, scale = _scaled(factor)
    gram = scaled.new_zeros(len(scaled), len(scaled))
    _fill_lower(gram, scaled.mT)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept, delta = eigenvalues[-rows:], eigenvalues[-rows - 1].clamp(min=0)
    shortening = ((kept - delta) / kept.where(kept > 0, 1.0)).clamp(min=0).sqrt()
    sketch = shortening[:, None] * (vectors[:, -rows:].mT @ scaled)
    lost = eigenvalues.sum() - (kept - delta).clamp(min=0).sum()
    return sketch * scale, delta * scale.square(), lost * scale.square()


def _scaled(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return features whose squares neither vanish nor overflow, and the scale they were divided by, mostly 1.

    Features that are not finite come back as zeros with the scale NaN, since LAPACK answers NaN with an error.
    """
    rows = features.detach().to(torch.float64)
    one = torch.ones((), dtype=torch.float64, device=rows.device)
    if not rows.numel():
        return rows, one
    low, high = rows.aminmax()
    largest = torch.maximum(-low, high)
    if not largest.isfinite():
        return torch.zeros_like(rows), one * torch.nan
    if largest == 0 or 1e-100 < largest < 1e100:
        return rows, one
    return rows / largest, largest


def _lower_gram(rows: Tensor) -> tuple[Tensor, Tensor | slice]:
    """Return the lower triangle of ``rowsᵀ rows``, and the columns it is of: dead ones would make it singular."""
    gram = rows.new_zeros(rows.shape[1], rows.shape[1])
    _fill_lower(gram, rows)
    alive = gram.diagonal() > 0
    return (gram, slice(None)) if bool(alive.all()) else (gram[alive][:, alive], alive)


def _fill_lower(gram: Tensor, rows: Tensor) -> None:
    """Write ``rowsᵀ rows`` into the lower triangle of ``gram``, half by half: large products are the fastest."""
    size = rows.shape[1]
    if size <= _BLOCK:
        torch.mm(rows.mT, rows, out=gram)
        return
    half = size // 2
    left, right = rows[:, :half], rows[:, half:]
    torch.mm(right.mT, left, out=gram[half:, :half])
    _fill_lower(gram[:half, :half], left)
    _fill_lower(gram[half:, half:], right)


def _is_well_conditioned(triangle: Tensor) -> bool:
    """Return whether the squared singular values of a lower triangle lie within the range that squaring keeps.

    Three steps of inverse iteration bound the smallest one from above; ``‖·‖²`` of the triangle bounds the largest.
    """
    if not triangle.numel():
        return True
    vector = torch.linspace(0.5, 1.0, triangle.shape[0], dtype=triangle.dtype, device=triangle.device)[:, None]
    for _ in range(3):
        vector = torch.cholesky_solve(vector / vector.norm(), triangle)
    return bool(1 / vector.norm() > _SAFE_EIGENVALUE * triangle.square().sum() / triangle.shape[0])
