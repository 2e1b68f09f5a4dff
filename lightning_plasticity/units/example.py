"""What a model is run on to find its units and to prove them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_plasticity.errors import InvalidArgumentError, PlasticityError

ExampleInputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[], Any]
"""A tensor, a tuple of positional arguments, a mapping of keyword arguments (a dict, or what a tokenizer returns), or a
function without arguments that runs the model and returns what must count as its output."""

_ARGUMENT = "`example_inputs`"


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
    check_example_inputs(example_inputs)
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        arguments = (example_inputs,)
    elif isinstance(example_inputs, tuple):
        arguments = example_inputs
    elif isinstance(example_inputs, Mapping):
        keywords = dict(example_inputs)
    else:
        return example_inputs, []
    leaves, structure = tree_flatten((arguments, keywords))
    sizes = [leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)]
    if sizes and not any(sizes):
        raise InvalidArgumentError(
            "`example_inputs` without a sample",
            "at least one sample, better two",
            "Pass a batch that is not empty: in an empty one nobody reads any unit",
        )
    leaves = [leaf.to(dtype, copy=True) if dtype is not None and _is_float(leaf) else leaf for leaf in leaves]
    arguments, keywords = tree_unflatten(leaves, structure)
    return lambda: model(*arguments, **keywords), [leaf for leaf in leaves if _is_float(leaf)]


def check_example_inputs(example_inputs: ExampleInputs) -> None:
    """Refuse what is no example by its type, such as a list, or a class where an object is meant.

    Args:
        example_inputs: What a model is to be run on.

    Raises:
        InvalidArgumentError: If no model can be run on it.
    """
    kind = f"of type {type(example_inputs).__name__}"
    if isinstance(example_inputs, type):
        kind = f"that is a class, {example_inputs.__name__}"
    elif isinstance(example_inputs, Tensor | tuple | Mapping) or callable(example_inputs):
        return
    raise InvalidArgumentError(
        f"`example_inputs` {kind}",
        "a tensor, a tuple of arguments, a mapping of keyword arguments, or a function that runs the model",
        "Convert arrays with `torch.as_tensor`, and lists of arguments with `tuple`",
    )


@contextmanager
def example_called(name: str, ran: str = "", otherwise: str = "") -> Generator[None]:
    """Let refusals speak of the example as the user knows it, who has not called it ``example_inputs``.

    Args:
        name: The argument or attribute that holds it.
        ran: What was run, if that is not plain; begins what was found.
        otherwise: What the user may also do; ends the message if the example is to be changed.

    Raises:
        PlasticityError: What is raised inside, of the same type, with the same cause.

    Example:
        >>> with example_called("example_input"):  # doctest: +IGNORE_EXCEPTION_DETAIL
        ...     how_to_run(nn.Flatten(), [3])
        Traceback (most recent call last):
        InvalidArgumentError: Found: `example_input` of type list. Expected: a tensor, a tuple of arguments, ...
    """
    try:
        yield
    except PlasticityError as error:
        if not any(_ARGUMENT in part for part in (error.found, error.expected, error.remedy)):
            raise
        parts = [f"{ran}{error.found}", error.expected, f"{error.remedy}{otherwise}"]
        parts = [
            part.replace(f"other {_ARGUMENT}", f"another `{name}`").replace(_ARGUMENT, f"`{name}`") for part in parts
        ]
        raise type(error)(*parts) from error.__cause__


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
