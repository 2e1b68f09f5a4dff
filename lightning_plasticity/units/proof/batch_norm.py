"""Batch norms with running statistics: give them fitting ones, and let derivatives by them be taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class MeasuredStatistics(TorchFunctionMode):
    """Let batch norms in evaluation mode use the statistics of what they see, moved a little, and write these down.

    In a model that was never trained, running statistics say nothing of the activations: a signal that is divided by
    one at every layer, rather than by its size, soon vanishes, and with it all that could be seen of the units.

    Args:
        generator: Draws by how much the statistics are moved, so that no mean is exactly that of the batch.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator
        self._measured: list[tuple[Tensor, Tensor]] = []

    def write(self) -> None:
        """Write what was measured into the running statistics."""
        for statistic, value in self._measured:
            statistic.data.copy_(value)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.batch_norm:
            return func(*args, **(kwargs or {}))
        return self._batch_norm(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        *rest: Any,
        **settings: Any,
    ) -> Tensor:
        if not training and mean is not None and variance is not None:
            measured = self._statistics(x, mean, variance)
            self._measured += zip((mean, variance), measured, strict=True)
            mean, variance = measured
        return nn.functional.batch_norm(x, mean, variance, weight, bias, training, *rest, **settings)

    def _statistics(self, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of every channel, and near the mean variance of all of them; the old ones if that is zero.

        The variance of single channels may be tiny, in a few samples, and to divide by it would blow up rounding.
        """
        dims = [dim for dim in range(x.ndim) if dim != 1]
        common = x.var(dims, correction=0).mean().to(variance)
        noise = torch.randn((2, len(mean)), generator=self._generator, dtype=torch.float64, device="cpu").to(mean)
        moved = x.mean(dims).to(mean) + 0.1 * common.sqrt() * noise[0], common * (1 + 0.1 * noise[1].abs())
        varies = (common > 0) & common.isfinite()
        return moved[0].where(varies, mean), moved[1].where(varies, variance)


class WrittenOutBatchNorm(TorchFunctionMode):
    """Compute batch norms of running statistics step by step, since torch does not differentiate by these."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is nn.functional.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or mean is None or variance is None:
        return nn.functional.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    normed = (x - mean.reshape(shape)) * (variance.reshape(shape) + eps).rsqrt()
    normed = normed if weight is None else normed * weight.reshape(shape)
    return normed if bias is None else normed + bias.reshape(shape)
