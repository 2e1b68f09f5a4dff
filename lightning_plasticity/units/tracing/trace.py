"""Run a model under labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units.tensors import tensors_in
from lightning_plasticity.units.tracing.chance import states_on_the_host
from lightning_plasticity.units.tracing.execution import Execution
from lightning_plasticity.units.tracing.frames import outside_of_inference_mode
from lightning_plasticity.units.tracing.rules import observe
from lightning_plasticity.units.tracing.rules.call import signature

_SWEEP_EVERY = 256


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let every operation be followed by its rule.

    Args:
        run: The state of the run.
        before_write: Told of every tensor that an operation is about to write.
    """

    def __init__(self, run: Execution, before_write: Callable[[Tensor], None] = lambda tensor: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._before_write = before_write
        self._count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled under this mode, and asking for the contrary imports all of dynamo

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, called = kwargs or {}, signature(func)
        if called.is_composite:
            with self:
                return func.decompose(*args, **kwargs)
        for position, name in called.written:
            written = args[position] if position < len(args) else kwargs.get(name)
            for tensor in tensors_in(written):
                self._before_write(tensor)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction(), outside_of_inference_mode():
            try:
                self._follow(func, args, kwargs, out)
            except Exception as error:
                self._run.frames.failure = error
                raise
        return out

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if not (_is_empty(out) and self._meets_nothing(args, kwargs)):
            observe(self._run, func, args, kwargs, out)
        self._run.tell(_asked_for_values(func, args, kwargs))
        self._count += 1
        if self._count % _SWEEP_EVERY == 0:
            self._run.shadow.sweep()

    def _meets_nothing(self, args: Any, kwargs: Any) -> bool:
        """Return whether an operation reads an activation without a sample: it tells nothing about the weights in it.

        Such a weight has not run on the example, because of how many samples came its way: that is a branch.
        """
        empty = any(t.numel() == 0 and self._run.is_data(t) for t in tensors_in((args, kwargs)))
        if empty and any(map(self._run.is_weight, tensors_in((args, kwargs)))):
            self._run.decides = True
        return empty


def _is_empty(out: Any) -> bool:
    """Return whether an operation computed no number at all."""
    return out.numel() == 0 if isinstance(out, Tensor) else all(t.numel() == 0 for t in tensors_in(out))


def _asked_for_values(func: Any, args: Any, kwargs: Any) -> Iterable[Tensor]:
    """Return what an operation tells Python the values of, or a shape that depends on them, so that it may branch."""
    if torch.Tag.data_dependent_output not in func.tags and torch.Tag.dynamic_output_shape not in func.tags:
        return ()
    if func is torch.ops.aten.index.Tensor:  # the shape depends on the values of masks only
        return (index for index in tensors_in(args[1:]) if index.dtype in {torch.bool, torch.uint8})
    return tensors_in((args, kwargs))


class LeaveMode(TorchFunctionMode):
    """Notice values that leave torch, where labels cannot follow and the model may branch on them.

    Args:
        run: The state of the run.
    """

    _EXITS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr"})  # the last tells no value

    def __init__(self, run: Execution) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self._EXITS and args and isinstance(args[0], Tensor):
            with torch._C._DisableTorchDispatch(), outside_of_inference_mode():  # what we ask, the model does not do
                try:
                    self._run.spoil(self._run.of(args[0]), f"its values leave torch by {func.__name__}")
                except Exception as error:
                    self._run.frames.failure = error
                    raise
                if func.__name__ != "data_ptr":
                    self._run.tell(args[:1])
        return func(*args, **(kwargs or {}))


def run_under_labels(
    run: Execution, forward: Callable[[], Any], training: bool, before_write: Callable[[Tensor], None]
) -> None:
    """Run the model once in one mode; what the rules find is in ``run``.

    Args:
        run: The state of the run.
        forward: Runs the model.
        training: The mode.
        before_write: Told of every tensor that the model is about to write.

    Raises:
        UnsupportedModelError: If the model cannot be run. An error of what follows it is raised as it is.
    """
    _set_mode(run.frames.names, training)
    run.frames.restart()
    run.runs += 1
    run.updates.is_reading = not training
    before = states_on_the_host()
    try:
        with run.frames.watched(), _distributions_unchecked(), LeaveMode(run), LabelMode(run, before_write):
            output = forward()
    except Exception as error:
        if run.frames.failure is None:
            raise UnsupportedModelError(
                f"the model failed on the example in {'training' if training else 'evaluation'} mode, {_where(run)}: "
                f"{type(error).__name__}: {error}",
                "an example that the model can be run on",
                "Pass other `example_inputs`: a tensor, a tuple of arguments (a dict that is one is `(batch,)`), "
                "a mapping of keyword arguments, or a function without arguments that runs the model",
            ) from error
    run.gambles |= states_on_the_host() != before
    if run.frames.failure is not None:  # even if the model has caught it
        raise run.frames.failure
    for source, held in run.updates.replaced():
        if run.is_data(held):
            run.updates.update(source)
    found = list(tensors_in(output)) or list(tensors_in(run.frames.top_outputs))
    for tensor in found:
        run.end(run.of(tensor))


@contextmanager
def _distributions_unchecked() -> Generator[None, None, None]:
    """Let distributions take any arguments: their checks look at values, but no model branches on that."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)


def _where(run: Execution) -> str:
    """Return where the model has failed."""
    layer = run.frames.path or run.frames.unwound
    return f"in layer {layer!r}" if layer else "outside of its layers"


def _set_mode(modules: Iterable[nn.Module], training: bool) -> None:
    """Put all modules in one mode; batch norms stay in evaluation mode.

    Batch statistics are per channel, as running statistics are, so they tell nothing new about units; but they could
    not be computed from an example of one sample.
    """
    for module in modules:
        mode = training and not isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.training is not mode:  # modules are slow to assign to
            module.training = mode


def check_complete(run: Execution, model: nn.Module) -> None:
    """Refuse a model whose layers ran, were built or moved where nobody could follow their weights.

    Args:
        run: The runs under labels.
        model: The model.

    Raises:
        UnsupportedModelError: If layers ran in other threads, which no operation can be followed in, or if the forward
            pass built layers or gave weights other memory.
    """
    if elsewhere := run.frames.elsewhere:
        names = [f"{name!r}" if (name := run.frames.names[module]) else "the model itself" for module in elsewhere]
        raise UnsupportedModelError(
            f"layers that run in another thread: {', '.join(names)}",
            "a forward pass in the thread that looks for units: operations in others cannot be followed",
            "Run the model without its threads on the example, for instance with one worker or one stream",
        )
    replaced = [s for s in run.sources.all if s.is_parameter and _is_strange(run, s.module._parameters.get(s.name))]
    if replaced:
        raise UnsupportedModelError(
            f"weights that the forward pass gives other memory: {', '.join(repr(s.path) for s in replaced)}",
            "a forward pass that leaves its parameters where they are",
            "Write into them (`weight.data.copy_(...)`) instead of `weight.data = ...` or a new nn.Parameter, "
            "or compute the weight by a parametrization",
        )
    held = [(path, name, p) for path, module in model.named_modules() for name, p in module._parameters.items()]
    if built := dict.fromkeys(path or name for path, name, p in held if _is_strange(run, p)):
        raise UnsupportedModelError(
            f"layers that the forward pass builds: {', '.join(map(repr, built))}",
            "a model that has all of its layers before it runs",
            "Run the model once on the example before its units are looked for",
        )


def _is_strange(run: Execution, parameter: Tensor | None) -> bool:
    """Return whether a parameter lies where none was before the model ran."""
    return parameter is not None and run.sources.find(parameter) is None
