"""How much one update helps on the very samples it was made from."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_plasticity(loss_before: Tensor, loss_after: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Return the share of the loss on a sample that the update on it has removed, in ``[0, 1]``.

    :math:`p(Z) = \max(1 - L(W', Z) / \max(L(W, Z), \epsilon), 0)` with the weights :math:`W` before and :math:`W'`
    after the update. 1 if the update has removed the loss, 0 if it has not helped; 1 as well if there was no loss
    before and none after, since :math:`\epsilon` then stands in for the former.

    Args:
        loss_before: Losses before the update, at least 0, any shape.
        loss_after: Losses of the same samples after it, of the same shape.
        eps: Floor of the loss before the update.

    Returns:
        The plasticity, of the same shape; NaN where a loss is negative, of which no share can be removed.

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning` (ICLR
        2024), section 4.

    Example:
        >>> sample_plasticity(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.5, 3.0, 0.0]))
        tensor([0.7500, 0.0000, 1.0000])
    """
    plasticity = (1 - loss_after / loss_before.clamp_min(eps)).clamp(0, 1)
    return plasticity.masked_fill((loss_before < 0) | (loss_after < 0), torch.nan)
