"""How much one update helps on the very samples it was made from."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import InvalidArgumentError


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

    Raises:
        InvalidArgumentError: If the losses are no tensors of one shape.

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning` (ICLR
        2024), section 4.

    Example:
        >>> sample_plasticity(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.5, 3.0, 0.0]))
        tensor([0.7500, 0.0000, 1.0000])
    """
    check_losses(loss_before, loss_after)
    plasticity = (1 - loss_after / loss_before.clamp_min(eps)).clamp(0, 1)
    return plasticity.masked_fill((loss_before < 0) | (loss_after < 0), torch.nan)


def check_losses(loss_before: object, loss_after: object) -> None:
    """Refuse what are no losses before and after an update.

    Args:
        loss_before: The ones.
        loss_after: The others.

    Raises:
        InvalidArgumentError: If they are no tensors of one shape.
    """
    if not (isinstance(loss_before, Tensor) and isinstance(loss_after, Tensor)):
        raise InvalidArgumentError(
            f"losses of the types {type(loss_before).__name__} and {type(loss_after).__name__}",
            "tensors",
            "Pass losses as they are, without `.item()`",
        )
    if loss_before.shape != loss_after.shape:
        raise InvalidArgumentError(
            f"losses of the shapes {tuple(loss_before.shape)} and {tuple(loss_after.shape)}",
            "one loss before and one after the update for every sample",
            "Reduce both losses in the same way",
        )
