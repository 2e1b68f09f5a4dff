"""What keeps a model exactly as it was found, whatever happens while it is run for discovery."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_plasticity.units.frames import version_of
from lightning_plasticity.units.restoring import (
    attributes_restored,
    buffer_values_restored,
    random_state_restored,
    uncompiled,
    unfused_attention,
)


@contextmanager
def untouched(model: nn.Module) -> Generator[None, None, None]:
    """Put everything back that a forward pass may change: modes, attributes, buffers, random states, global flags.

    Gradients are never touched, since nothing is recorded for autograd. Attention is written out as products and a
    softmax meanwhile, so that labels can follow.

    Args:
        model: The model.

    Yields:
        Nothing; the model may be run inside.
    """
    with ExitStack() as stack:
        stack.enter_context(attributes_restored(model))
        stack.enter_context(buffer_values_restored(model))
        stack.enter_context(_attribute_values_restored(model))
        stack.enter_context(random_state_restored(model))
        stack.enter_context(unfused_attention())
        stack.enter_context(uncompiled())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _attribute_values_restored(model: nn.Module) -> Generator[None, None, None]:
    """Put back the numbers in tensors that are plain attributes, such as the states of a metric."""
    held = [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor)]
    values = [(tensor, tensor.clone(), version_of(tensor)) for tensor in held if tensor.layout is torch.strided]
    try:
        yield
    finally:
        for tensor, value, version in values:
            if version_of(tensor) != version:
                tensor.data.copy_(value)


def set_mode(model: nn.Module, training: bool) -> None:
    """Put the whole model in one mode; batch norms stay in evaluation mode.

    Batch statistics are per channel, as running statistics are, so they tell nothing new about units; but they could
    not be computed from an example of one sample.
    """
    for module in model.modules():
        module.training = training and not isinstance(module, nn.modules.batchnorm._BatchNorm)
