"""How much updates help on the samples they were made from, as a metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import check_number
from lightning_plasticity.functional.plasticity import check_losses, sample_plasticity
from lightning_plasticity.metrics.base import PlasticityMetric, Reads


class SamplePlasticity(PlasticityMetric):
    r"""Mean over samples of :math:`\max(1 - L(W', Z) / \max(L(W, Z), \epsilon), 0)`, in ``[0, 1]``; 0 without samples.

    Both losses are to be taken in the same mode, with the same dropout masks, and without moving running statistics.

    Args:
        eps: Floor of the loss before the update, positive.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: If ``eps`` is not positive.

    References:
        Elsayed and Mahmood (ICLR 2024); see :func:`~lightning_plasticity.functional.plasticity.sample_plasticity`.

    Example:
        >>> metric = SamplePlasticity()
        >>> metric.update(torch.tensor([2.0, 2.0]), torch.tensor([0.5, 3.0]))
        >>> metric.compute()
        tensor(0.3750, dtype=torch.float64)
    """

    reads = Reads.LOSSES
    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    plasticity_total: Tensor
    plasticity_samples: Tensor

    def __init__(self, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("eps", eps, "(0, inf)")
        self.eps = eps
        self.add_state("plasticity_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("plasticity_samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, loss_before: Tensor, loss_after: Tensor) -> None:
        """Take in losses of the same samples (or the mean loss of the same batch) before and after an update.

        Args:
            loss_before: Losses before the update, at least 0, any shape.
            loss_after: Losses after it, of the same shape.

        Raises:
            InvalidArgumentError: If they are no tensors of one shape.
        """
        check_losses(loss_before, loss_after)
        values = sample_plasticity(loss_before.detach(), loss_after.detach(), self.eps)
        self.plasticity_total = self.plasticity_total + values.sum(dtype=torch.float64)
        self.plasticity_samples = self.plasticity_samples + values.numel()

    @override
    def compute(self) -> Tensor:
        """Return the mean plasticity of all samples since the last reset."""
        return self.plasticity_total / self.plasticity_samples.clamp(min=1)
