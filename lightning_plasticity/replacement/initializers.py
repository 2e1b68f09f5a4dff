"""How a layer drew its weights, found out by looking at them; and fresh draws from the same distribution.

A replaced unit should look like one that was never trained, so its weights are drawn the way its own layer was
initialised, whatever the user chose. A distribution is a tensor ``[family, location, scale]``, so that it travels in
checkpoints: a resumed run must not measure it again on trained weights.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_UNIFORM_KURTOSIS = 2.2  # a uniform distribution has 1.8, a normal one cut at two deviations 2.4, a normal one 3
_TOLERANCE = 4.0  # standard errors


class Family(IntEnum):
    """The families of distributions that are told apart."""

    CONSTANT = 0
    UNIFORM = 1
    NORMAL = 2
    SPHERE = 3


def detect_distribution(weights: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Return the distribution that the rows of ``weights`` were drawn from.

    A constant stays that constant. Rows of equal length that are orthogonal to each other are drawn from a sphere.
    Otherwise the kurtosis tells uniform from normal; a scale within four standard errors of PyTorch's default, Kaiming
    (gain 1 and sqrt 2), LeCun or Xavier initialisation is snapped to it, any other is taken as measured.

    Args:
        weights: The weights as one row per unit, ``[U, fan_in]``.
        fan_in: Number of inputs of a unit.
        fan_out: Number of outputs of an input.

    Returns:
        ``[family, location, scale]``, float64, on the host: the constant; bound of the uniform distribution; standard
        deviation of the normal one; radius of the sphere.

    Example:
        >>> layer = torch.nn.Linear(64, 32)
        >>> family, _, bound = detect_distribution(layer.weight, fan_in=64, fan_out=32)
        >>> Family(int(family)).name, round(bound.item(), 6)
        ('UNIFORM', 0.125)
    """
    values = weights.detach().to("cpu", torch.float64)
    finite = values[values.isfinite()]
    if finite.numel() == 0:
        return _distribution(Family.UNIFORM, 1 / math.sqrt(max(1, fan_in)))
    if bool((finite == finite[0]).all()):
        return _distribution(Family.CONSTANT, 0.0, finite[0].item())
    radius = _sphere_radius(values)
    if radius is not None:
        return _distribution(Family.SPHERE, radius)
    second = finite.square().mean()
    kurtosis = (finite**4).mean() / second.square()
    std, count = second.sqrt().item(), finite.numel()
    family = Family.UNIFORM if kurtosis < _UNIFORM_KURTOSIS else Family.NORMAL
    error = math.sqrt(max(float(kurtosis) - 1, 0.0) / (4 * count))
    known = _known_deviations(fan_in, fan_out)
    nearest = min(known, key=lambda candidate: abs(math.log(candidate / std)))
    if abs(math.log(nearest / std)) <= _TOLERANCE * error:
        std = nearest
    scale = math.sqrt(3) * std if family is Family.UNIFORM else std
    return _distribution(family, scale)


def draw(distribution: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return fresh values.

    Args:
        distribution: ``[family, location, scale]``, see :func:`detect_distribution`.
        shape: Shape of the draw; the first dimension counts units.
        generator: Source of randomness, on the host, so that every device and process draws the same.

    Returns:
        The draw, float64, on the host.

    Example:
        >>> draw(torch.tensor([0.0, 0.25, 0.0]), (1, 2), torch.Generator())
        tensor([[0.2500, 0.2500]], dtype=torch.float64)
    """
    family, location, scale = Family(int(distribution[0])), float(distribution[1]), float(distribution[2])
    if family is Family.CONSTANT:
        return torch.full(shape, location, dtype=torch.float64)
    if family is Family.UNIFORM:
        return (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * scale
    normal = torch.randn(shape, dtype=torch.float64, generator=generator)
    if family is Family.NORMAL:
        return normal * scale
    length = normal.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    sphere: Tensor = normal * (scale / length).view(-1, *[1] * (len(shape) - 1))
    return sphere


def distribution_of(name: str, fan_in: int, fan_out: int, gain: float) -> Tensor:
    """Return a named initialiser as a distribution.

    Args:
        name: ``"default"`` (PyTorch's for Linear and Conv), ``"kaiming_uniform"``, ``"kaiming_normal"``,
            ``"lecun_uniform"``, ``"lecun_normal"``, ``"xavier_uniform"``, ``"xavier_normal"`` or ``"orthogonal"``.
        fan_in: Number of inputs of a unit.
        fan_out: Number of outputs of an input.
        gain: Gain of the activation, such as sqrt 2 for ReLU; used by Kaiming, Xavier and orthogonal.

    Returns:
        ``[family, location, scale]``.
    """
    kind, _, family = name.partition("_")
    if kind == "orthogonal":
        return _distribution(Family.SPHERE, gain)
    std = {
        "default": 1 / math.sqrt(3 * fan_in),
        "lecun": 1 / math.sqrt(fan_in),
        "kaiming": gain / math.sqrt(fan_in),
        "xavier": gain * math.sqrt(2 / (fan_in + fan_out)),
    }[kind]
    return (
        _distribution(Family.NORMAL, std) if family == "normal" else _distribution(Family.UNIFORM, math.sqrt(3) * std)
    )


def _distribution(family: Family, scale: float, location: float = 0.0) -> Tensor:
    return torch.tensor([float(family), location, scale], dtype=torch.float64)


def _known_deviations(fan_in: int, fan_out: int) -> list[float]:
    fan_in, fan_out = max(1, fan_in), max(1, fan_out)
    xavier = math.sqrt(2 / (fan_in + fan_out))
    return [
        1 / math.sqrt(3 * fan_in),
        1 / math.sqrt(fan_in),
        math.sqrt(2 / fan_in),
        math.sqrt(2 / fan_out),
        xavier,
        math.sqrt(2) * xavier,
    ]


def _sphere_radius(rows: Tensor) -> float | None:
    """Return the common length of rows that are orthogonal to each other, or None."""
    if not 2 <= rows.shape[0] <= rows.shape[1] or rows.shape[0] > 4096:
        return None
    lengths = rows.norm(dim=1)
    mean = lengths.mean().item()
    if mean == 0 or not torch.allclose(lengths, lengths.new_tensor(mean), rtol=1e-3):
        return None
    gram = rows[:64] @ rows[:64].T / mean**2
    return mean if torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-3) else None
