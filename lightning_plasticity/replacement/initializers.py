"""How a layer drew its weights, found out by looking at them; and fresh draws from the same distribution.

A replaced unit should look like one that was never trained, so its weights are drawn the way its own layer was
initialised, whatever the user chose. A distribution is a tensor ``[family, scale, location]``, so that it travels in
checkpoints: a resumed run must not measure it again on trained weights.

Fans are those of :mod:`torch.nn.init`: ``fan_in`` is the second dimension of the weight times the kernel positions (in
a grouped convolution the channels of one group; in a transposed one the *output* channels of one group, which is what
PyTorch initialises by), ``fan_out`` the first dimension times the kernel positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError

_UNIFORM_KURTOSIS, _NORMAL_KURTOSIS = 1.8, 3.0
_BORDER_KURTOSIS = 2.2  # a normal distribution that is cut at two deviations has 2.4
_TOLERANCE = 4.0  # standard errors
_DEFAULT_BONUS = math.log(100)  # how much more common PyTorch's default is: it decides in layers of a few weights


class Family(IntEnum):
    """The families of distributions that are told apart."""

    CONSTANT = 0
    UNIFORM = 1
    NORMAL = 2
    SPHERE = 3


def detect_distribution(weights: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Return the distribution that the rows of ``weights`` were drawn from.

    A constant stays that constant. The rows of an orthogonal matrix, or of one with orthogonal columns, are drawn from
    a sphere. Otherwise the most likely of PyTorch's default and Kaiming, LeCun and Xavier initialisation, uniform and
    normal, is taken if mean, deviation and kurtosis agree with it; if none does, the weights are taken as they are:
    uniform or normal by their kurtosis, with the measured mean and deviation.

    Args:
        weights: The weights as one row per unit, ``[U, *]``.
        fan_in: PyTorch's fan-in of the whole tensor.
        fan_out: PyTorch's fan-out of the whole tensor.

    Returns:
        ``[family, scale, location]``, float64, on the host: bound of the uniform distribution, standard deviation of
        the normal one, radius of the sphere; the location is the constant, else the mean. Weights of which none is
        finite are taken for PyTorch's default.

    Example:
        >>> layer = torch.nn.Linear(64, 32)
        >>> family, bound, _ = detect_distribution(layer.weight, fan_in=64, fan_out=32)
        >>> Family(int(family)).name, round(bound.item(), 6)
        ('UNIFORM', 0.125)
    """
    rows = weights.detach().flatten(1).to("cpu", torch.float64)
    values = rows[rows.isfinite()]
    if values.numel() == 0:
        return distribution_of("default", fan_in, fan_out, 1.0)
    if bool((values == values[0]).all()):
        return _distribution(Family.CONSTANT, 0.0, values[0].item())
    precision = torch.finfo(weights.dtype).eps
    radius = _sphere_radius(rows, max(1e-3, 4 * precision))
    if radius is not None:
        return _distribution(Family.SPHERE, radius)
    mean, std = values.mean().item(), values.std(correction=0).item()
    if abs(mean) > _TOLERANCE * std / math.sqrt(values.numel()):
        return _measured(values - mean, mean)
    known = _most_likely(values, {fan_in, rows.shape[1]}, fan_out, 1 + precision)
    return _measured(values) if known is None else _distribution(*known)


def draw(distribution: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return fresh values.

    Args:
        distribution: ``[family, scale, location]``, see :func:`detect_distribution`.
        shape: Shape of the draw; the first dimension counts units.
        generator: Source of randomness, on the host, so that every device and process draws the same.

    Returns:
        The draw, float64, on the host.

    Example:
        >>> draw(torch.tensor([0.0, 0.0, 0.25]), (1, 2), torch.Generator())
        tensor([[0.2500, 0.2500]], dtype=torch.float64)
    """
    family, scale, location = (float(each) for each in distribution.tolist())
    if family == Family.CONSTANT:
        return torch.full(shape, location, dtype=torch.float64, device="cpu")
    if family == Family.UNIFORM:
        uniform = torch.empty(shape, dtype=torch.float64, device="cpu").uniform_(-1, 1, generator=generator)
        return uniform.mul_(scale).add_(location)
    normal = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
    if family == Family.NORMAL:
        return normal * scale + location
    length = normal.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    sphere: Tensor = normal * (scale / length).view(-1, *[1] * (len(shape) - 1))
    return sphere


def distribution_of(name: str, fan_in: int, fan_out: int, gain: float) -> Tensor:
    """Return a named initialiser as a distribution.

    Args:
        name: ``"default"`` (PyTorch's for Linear and Conv), ``"kaiming_uniform"``, ``"kaiming_normal"``,
            ``"lecun_uniform"``, ``"lecun_normal"``, ``"xavier_uniform"``, ``"xavier_normal"`` or ``"orthogonal"``.
        fan_in: PyTorch's fan-in of the whole tensor.
        fan_out: PyTorch's fan-out of the whole tensor.
        gain: Gain of the activation, such as sqrt 2 for ReLU; used by Kaiming, Xavier and orthogonal.

    Returns:
        ``[family, scale, location]``.

    Raises:
        InvalidArgumentError: If the name is unknown.

    Example:
        >>> distribution_of("lecun_uniform", fan_in=3, fan_out=1, gain=1.0)
        tensor([1., 1., 0.], dtype=torch.float64)
    """
    check_initializer(name)
    kind, _, family = name.partition("_")
    if kind == "orthogonal":
        return _distribution(Family.SPHERE, gain)
    fan_in, fan_out = max(1, fan_in), max(1, fan_out)
    std = {
        "default": 1 / math.sqrt(3 * fan_in),
        "lecun": 1 / math.sqrt(fan_in),
        "kaiming": gain / math.sqrt(fan_in),
        "xavier": gain * math.sqrt(2 / (fan_in + fan_out)),
    }[kind]
    return _of_deviation(Family.NORMAL if family == "normal" else Family.UNIFORM, std)


def check_initializer(name: str) -> None:
    """Refuse the name of an initialiser that does not exist.

    Args:
        name: The name.

    Raises:
        InvalidArgumentError: If it is unknown.
    """
    families = [f"{kind}_{family}" for kind in ("kaiming", "lecun", "xavier") for family in ("uniform", "normal")]
    known = ["default", *families, "orthogonal"]
    if name not in known:
        raise InvalidArgumentError(
            f"initializer={name!r}", f"one of {known}", "Choose one of them, or None for the layer's own initialiser"
        )


def _distribution(family: Family, scale: float, location: float = 0.0) -> Tensor:
    return torch.tensor([float(family), scale, location], dtype=torch.float64, device="cpu")


def _of_deviation(family: Family, std: float, location: float = 0.0) -> Tensor:
    return _distribution(family, math.sqrt(3) * std if family is Family.UNIFORM else std, location)


def _measured(values: Tensor, location: float = 0.0) -> Tensor:
    """The distribution of values around 0, as they are."""
    second = values.square().mean()
    uniform = (values**4).mean() / second.square() < _BORDER_KURTOSIS
    return _of_deviation(Family.UNIFORM if uniform else Family.NORMAL, second.sqrt().item(), location)


def _known(fans_in: set[int], fan_out: int) -> Iterator[tuple[Family, float, float]]:
    """Family, standard deviation and bonus of the initialisers that are looked for."""
    fan_out = max(1, fan_out)
    for fan_in in sorted(max(1, fan) for fan in fans_in):
        yield Family.UNIFORM, 1 / math.sqrt(3 * fan_in), _DEFAULT_BONUS
        xavier = math.sqrt(2 / (fan_in + fan_out))
        for std in (
            1 / math.sqrt(fan_in),
            math.sqrt(2 / fan_in),
            math.sqrt(2 / fan_out),
            xavier,
            math.sqrt(2) * xavier,
        ):
            yield Family.UNIFORM, std, 0.0
            yield Family.NORMAL, std, 0.0


def _most_likely(values: Tensor, fans_in: set[int], fan_out: int, slack: float) -> tuple[Family, float] | None:
    """Return the most likely known initialiser as family and scale, or None if none fits."""
    count, second = values.numel(), values.square().mean().item()
    largest, kurtosis = values.abs().max().item(), (values**4).mean().item() / second**2
    best, found = -math.inf, None
    for family, std, bonus in _known(fans_in, fan_out):
        uniform = family is Family.UNIFORM
        bound, expected = math.sqrt(3) * std, _UNIFORM_KURTOSIS if uniform else _NORMAL_KURTOSIS
        too_far = abs(math.log(math.sqrt(second) / std)) > _TOLERANCE * math.sqrt((expected - 1) / (4 * count))
        if too_far or abs(kurtosis - expected) > _TOLERANCE * math.sqrt(24 / count):
            continue
        if uniform and largest > bound * slack:
            continue
        normal = math.log(std * math.sqrt(2 * math.pi)) + second / (2 * std**2)
        likelihood = bonus - count * (math.log(2 * bound) if uniform else normal)
        if likelihood > best:
            best, found = likelihood, (family, bound if uniform else std)
    return found


def _sphere_radius(rows: Tensor, tolerance: float) -> float | None:
    """Return the root mean square length of the rows if they, or the columns, are orthogonal and of one length."""
    wide = rows.shape[0] <= rows.shape[1]
    vectors = rows if wide else rows.T
    if len(vectors) < 2:
        return None
    lengths = vectors.norm(dim=1)
    mean = lengths.mean()
    if not bool(mean > 0) or not torch.allclose(lengths, mean.expand_as(lengths), rtol=tolerance):
        return None
    some = vectors[:64] / mean
    orthogonal = torch.allclose(some @ some.T, torch.eye(len(some), dtype=some.dtype, device="cpu"), atol=tolerance)
    return math.sqrt(rows.square().sum().item() / len(rows)) if orthogonal else None
