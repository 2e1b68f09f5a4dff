"""What a model is run on to find its units and to prove them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_plasticity.errors import InvalidArgumentError

ExampleInputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[], Any]
"""A tensor, a tuple of positional arguments, a mapping of keyword arguments (a dict, or what a tokenizer returns), or a
function without arguments that runs the model and returns what must count as its output."""


def how_to_run(
    model: nn.Module, example_inputs: ExampleInputs, dtype: torch.dtype | None = None
) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return what runs a model once on an example.

    Args:
        model: The model.
        example_inputs: What it is run on.
        dtype: Run it on copies of all floating-point tensors in this precision; by default on the tensors themselves.

    Returns:
        A function without arguments, and the floating-point tensors that the model is run on; none of them is known if
        the example is a function itself.

    Raises:
        InvalidArgumentError: If ``example_inputs`` are none, or empty.

    Example:
        >>> run, (x,) = how_to_run(nn.Flatten(), {"input": torch.ones(2, 3, 4)}, torch.float64)
        >>> run().shape, x.dtype
        (torch.Size([2, 12]), torch.float64)
    """
    keywords: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        arguments: tuple[Any, ...] = (example_inputs,)
    elif isinstance(example_inputs, tuple):
        arguments = example_inputs
    elif isinstance(example_inputs, Mapping):
        arguments, keywords = (), dict(example_inputs)
    elif callable(example_inputs):
        return example_inputs, []
    else:
        raise InvalidArgumentError(
            f"example_inputs of type {type(example_inputs).__name__}",
            "a tensor, a tuple of arguments, a mapping of keyword arguments, or a function that runs the model",
            "Convert arrays with `torch.as_tensor`, and lists of arguments with `tuple`",
        )
    leaves, structure = tree_flatten((arguments, keywords))
    sizes = [leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)]
    if sizes and not any(sizes):
        raise InvalidArgumentError(
            "example_inputs without a sample",
            "at least one sample, better two",
            "Pass a batch that is not empty: in an empty one nobody reads any unit",
        )
    leaves = [leaf.to(dtype, copy=True) if dtype is not None and _is_float(leaf) else leaf for leaf in leaves]
    arguments, keywords = tree_unflatten(leaves, structure)
    return lambda: model(*arguments, **keywords), [leaf for leaf in leaves if _is_float(leaf)]


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
