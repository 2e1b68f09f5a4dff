"""Which module of the model is being executed, and which module's input or output an activation is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_plasticity.units.restoring import version_of
from lightning_plasticity.units.tensors import tensors_in
from lightning_plasticity.units.tracing.shadow import storage_key

_LARGEST_COMPARED = 2**22


def outside_of_inference_mode() -> AbstractContextManager[object]:
    """Return a context in which labels can be made that may be used anywhere, whatever mode the model runs in."""
    return torch.inference_mode(mode=False) if torch.is_inference_mode_enabled() else nullcontext()


@dataclass(eq=False)
class TapCandidate:
    """A place where units can be observed.

    Args:
        module: The module whose input or output carries them.
        path: Its dotted name.
        where: Whether it is an input or an output.
        key: Position or keyword of the tensor.
        dim: The feature dimension, from the end.
        labels: The label of every feature, ``[F]``.
        time: When the tensor was read.
    """

    module: nn.Module
    path: str
    where: Literal["input", "output"]
    key: int | str
    dim: int
    labels: Tensor
    time: int


@dataclass(eq=False)
class _Port:
    module: nn.Module
    where: Literal["input", "output"]
    key: int | str
    tensor: Tensor
    version: int


class Frames:
    """The stack of executing modules.

    Args:
        names: The dotted name of every module.
    """

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names = names
        self.elsewhere: dict[nn.Module, None] = {}  # what ran in a thread where nobody follows operations, in order
        self._thread = threading.get_ident()
        self._stack: list[tuple[nn.Module, list[_Port]]] = []
        self._outputs: dict[int, _Port] = {}
        self.unwound = ""  # the module in which an error has happened, if one has
        self.failure: Exception | None = None  # an error of those who follow the model: it is not the model's
        self.top_outputs: list[Any] = []
        self.on_entry: Callable[[Tensor], None] | None = None  # told what modules are given that no module calls

    @property
    def path(self) -> str:
        """The dotted name of the innermost executing module; empty outside of all."""
        return self.names.get(self._stack[-1][0], "") if self._stack else ""

    def called_with(self, tensor: Tensor) -> nn.Module | None:
        """Return the innermost executing module if ``tensor`` is what it was called with, or a view of that."""
        module, ports = self._stack[-1] if self._stack else (None, [])
        return module if any(storage_key(port.tensor) == storage_key(tensor) for port in ports) else None

    @contextmanager
    def watched(self) -> Generator[None, None, None]:
        """Follow which module is executed, by hooks on all of them; in other threads, only note that it is."""
        self._thread = threading.get_ident()

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_elsewhere():
                self.elsewhere[module] = None
                return
            with torch._C.DisableTorchFunction(), outside_of_inference_mode():  # no mode need see what is asked here
                try:
                    self._enter(module, args, kwargs)
                except Exception as error:
                    self.failure = error
                    raise

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not self._is_elsewhere():
                with torch._C.DisableTorchFunction():
                    self._leave(module, output)

        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _is_elsewhere(self) -> bool:
        return threading.get_ident() != self._thread

    def restart(self) -> None:
        """Forget the tensors of the last run."""
        self._stack.clear()
        self._outputs.clear()
        self.top_outputs.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        if not self._stack and self.on_entry is not None:
            for tensor in tensors_in((args, kwargs)):
                self.on_entry(tensor)
        ports = [_Port(module, "input", key, t, version_of(t)) for key, t in given if isinstance(t, Tensor)]
        self._stack.append((module, ports))
        self.unwound = ""

    def _leave(self, module: nn.Module, output: Any) -> None:
        if output is None:  # so it is after an error; the innermost module comes first
            self.unwound = self.unwound or self.path
        self._stack.pop()
        if not self._stack:
            self.top_outputs.append(output)
        given = enumerate(output) if isinstance(output, (tuple, list)) else [(0, output)]
        for key, tensor in given:
            if isinstance(tensor, Tensor):
                self._outputs[storage_key(tensor)] = _Port(module, "output", key, tensor, version_of(tensor))

    def taps(self, read: Tensor, time: int, labels: Callable[[Tensor], Tensor | None]) -> list[TapCandidate]:
        """Return where ``read``, an activation that a weight reads now, can be observed; the best place first.

        Args:
            read: The activation.
            time: The time of reading.
            labels: Tells the compact labels of a tensor, one for each unit.

        Returns:
            At most two candidates: an input and an output of a module.
        """
        key = storage_key(read)
        given = [port for _, ports in reversed(self._stack) for port in ports]
        inputs = [port for port in given if storage_key(port.tensor) == key]
        inputs = inputs or [port for port in given if _is_reordered(port.tensor, read)]
        outputs = [self._outputs[key]] if key in self._outputs else []
        found = []
        for ports in (inputs, outputs):
            for port in ports:
                t = port.tensor
                seen = labels(t) if t.numel() == read.numel() and version_of(t) == port.version else None
                dim = None if seen is None else _feature_dim(seen, t)
                if seen is not None and dim is not None:
                    features = seen.expand([n if d == dim else 1 for d, n in enumerate(t.shape)]).reshape(-1)
                    path = self.names[port.module]
                    found.append(TapCandidate(port.module, path, port.where, port.key, dim - t.ndim, features, time))
                    break
        return found


def _is_reordered(tensor: Tensor, read: Tensor) -> bool:
    """Return whether ``read`` is a copy of ``tensor`` with its positions in another order, such as batch and time."""
    if tensor.numel() != read.numel() or tensor.dtype != read.dtype or tensor.numel() > _LARGEST_COMPARED:
        return False
    return torch.equal(tensor.flatten().sort().values, read.flatten().sort().values)


def _feature_dim(labels: Tensor, tensor: Tensor) -> int | None:
    """Return the one dimension along which the labels vary; for a single unit, the last of size 1."""
    varying = [d for d, n in enumerate(labels.shape) if n > 1]
    if not varying:
        varying = [d for d in range(1, tensor.ndim) if tensor.shape[d] == 1][-1:]
    return varying[0] if len(varying) == 1 else None
