"""The slowly-changing regression problem: a target network whose inputs drift one bit at a time.

Letters: ``N`` samples of an experience, ``M`` input bits, ``H`` hidden units of the target network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from typing_extensions import override

from lightning_plasticity.errors import InvalidArgumentError, check_counts, check_flags, check_number
from lightning_plasticity.streams.lazy import LazyStream
from lightning_plasticity.streams.randomness import derived_generator


@dataclass(frozen=True, eq=False)
class ThresholdNetwork:
    """A network of one hidden layer whose units are 1 above their threshold and 0 below; weights are plus or minus 1.

    Args:
        weight: Hidden weights, ``[H, M]``.
        bias: Hidden biases, ``[H]``.
        threshold: Thresholds, ``[H]``.
        out: Output weights, ``[H]``.
        out_bias: Output bias, a scalar.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    out: Tensor
    out_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs ``[N, 1]`` for bits ``[N, M]``."""
        hidden = (x @ self.weight.T + self.bias > self.threshold).to(x.dtype)
        return (hidden @ self.out + self.out_bias)[:, None]


def threshold_network(
    num_bits: int, hidden: int, beta: float, generator: torch.Generator, *, published_offset: bool = False
) -> ThresholdNetwork:
    r"""Draw a target network.

    A unit's threshold is :math:`\beta (M + 1) - S`, with :math:`S` its number of negative weights, the bias included:
    a share :math:`\beta` of the way up from the least value its sum can take.

    Args:
        num_bits: Number of input bits ``M``.
        hidden: Number of hidden units ``H``.
        beta: Height of the thresholds, in ``[0, 1]``.
        generator: Draws the weights.
        published_offset: Whether :math:`S` is counted as in the published code, which is off by half a unit upwards for
            a bias of 1 and by one and a half downwards for a bias of -1.

    Returns:
        The network.
    """

    def signs(*shape: int) -> Tensor:
        return torch.randint(2, shape, generator=generator) * 2.0 - 1

    weight, bias, out, out_bias = signs(hidden, num_bits), signs(hidden), signs(hidden), signs()
    check_flags(published_offset=published_offset)
    negative = (num_bits - weight.sum(1) + bias) / 2 if published_offset else (weight < 0).sum(1) + (bias < 0)
    return ThresholdNetwork(weight, bias, beta * (num_bits + 1) - negative, out, out_bias)


class SlowlyChangingRegression(LazyStream):
    """A stream of regression tasks: some input bits are fixed within an experience, one of them flips between two.

    The other bits are random in every sample. The target network stays the same; what changes is the part of its input
    space that is visited. Meant for batches of one sample in the order given.

    Differs from the published code, whose default redraws every slow bit where the paper flips one (``flips=None``
    gives that), and whose thresholds are miscounted (``published_offset`` gives those).

    Args:
        num_experiences: Length of the stream.
        samples_per_experience: Samples ``N`` between two flips.
        slow_bits: Bits that are fixed within an experience.
        random_bits: Bits that are random in every sample.
        flips: Slow bits that flip between two experiences; None redraws all.
        hidden: Hidden units ``H`` of the target network.
        beta: Height of their thresholds, in ``[0, 1]``.
        published_offset: Whether the thresholds are those of the published code.
        seed: Fixes target network and stream.

    Raises:
        InvalidArgumentError: If a number is not positive, or more bits would flip than there are.

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), Slowly-Changing Regression.

    Example:
        >>> stream = SlowlyChangingRegression(num_experiences=100, samples_per_experience=4)
        >>> [tuple(tensor.shape) for tensor in stream[99].tensors]
        [(4, 20), (4, 1)]
        >>> int((stream[98].tensors[0][0, :15] != stream[99].tensors[0][0, :15]).sum())
        1
    """

    def __init__(
        self,
        num_experiences: int,
        samples_per_experience: int = 10_000,
        *,
        slow_bits: int = 15,
        random_bits: int = 5,
        flips: int | None = 1,
        hidden: int = 100,
        beta: float = 0.7,
        published_offset: bool = False,
        seed: int = 0,
    ) -> None:
        check_counts(
            num_experiences=num_experiences,
            samples_per_experience=samples_per_experience,
            slow_bits=slow_bits,
            random_bits=random_bits,
            flips=flips,
            hidden=hidden,
        )
        check_number("beta", beta, "[0, 1]")
        check_number("seed", seed, "[0, inf)", whole=True)
        if flips is not None and flips > slow_bits:
            raise InvalidArgumentError(
                f"`flips={flips}`", f"at most as many as there are slow bits, {slow_bits}", "Pass fewer"
            )
        self.num_experiences, self.samples_per_experience, self.seed = num_experiences, samples_per_experience, seed
        self.slow_bits, self.random_bits, self.flips = slow_bits, random_bits, flips
        self.target = threshold_network(
            slow_bits + random_bits, hidden, beta, derived_generator(seed, "target"), published_offset=published_offset
        )

    def __len__(self) -> int:
        return self.num_experiences

    @override
    def build(self, place: int) -> TensorDataset:
        """Build one experience.

        Args:
            place: Its place in the stream.

        Returns:
            Bits ``[N, M]``, the slow ones first, and targets ``[N, 1]``.
        """
        shape = self.samples_per_experience, self.random_bits
        random = torch.randint(2, shape, generator=derived_generator(self.seed, "samples", place)).float()
        slow = self._slow(place).expand(self.samples_per_experience, -1)
        x = torch.cat((slow, random), dim=1)
        return TensorDataset(x, self.target(x))

    def _slow(self, place: int) -> Tensor:
        if self.flips is None:
            return torch.randint(2, (self.slow_bits,), generator=derived_generator(self.seed, "slow", place)).float()
        bits = torch.randint(2, (self.slow_bits,), generator=derived_generator(self.seed, "slow", 0)).float()
        for step in range(place):
            flipped = torch.randperm(self.slow_bits, generator=derived_generator(self.seed, "flip", step))[: self.flips]
            bits[flipped] = 1 - bits[flipped]
        return bits
