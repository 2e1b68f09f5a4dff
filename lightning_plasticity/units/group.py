"""The interchangeable units of one place in the network, and the place where their activation is read.

Letters: ``U`` units, ``K`` features per unit where they are read, ``F`` features of the tapped tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.units.binding import Bound
from lightning_plasticity.units.slot import Slot


@dataclass(frozen=True, eq=False)
class Tap(Bound):
    """Where the activation of the units can be observed: an input or an output of a module.

    Args:
        module: Module whose input or output carries the activation; usually the first layer that reads the units.
        path: Dotted name of ``module`` in the model.
        where: Whether the tensor is an ``"input"`` or an ``"output"`` of ``module``.
        key: Its position among the positional inputs (or in an output tuple), or its keyword.
        dim: The feature dimension, counted from the end (negative), so that a missing batch dimension does no harm.
        index: The features along ``dim`` that each unit owns, ``[U, K]``.
    """

    _held: ClassVar[str] = "module"

    module: nn.Module = field(repr=False)
    path: str
    where: Literal["input", "output"]
    key: int | str
    dim: int
    index: Tensor = field(repr=False)

    def watch(self, listener: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``listener`` with the tapped tensor in every forward pass, in any mode, until the handle is removed.

        Args:
            listener: Receives the tensor with its autograd history; what it returns is ignored.

        Returns:
            The handle that ends the watch.
        """
        key = self.key

        def on_argument(module: nn.Module, args: tuple[Any, ...]) -> None:
            listener(args[key])  # type: ignore[index]

        def on_keyword(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            listener(kwargs[key])  # type: ignore[index]

        def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            listener(output if isinstance(output, Tensor) else output[key])

        if self.where == "input" and isinstance(key, int):
            return self.module.register_forward_pre_hook(on_argument)
        if self.where == "input":
            return self.module.register_forward_pre_hook(on_keyword, with_kwargs=True)
        return self.module.register_forward_hook(on_output)

    def samples(self, activation: Tensor) -> Tensor:
        """Return the tapped tensor as samples by features, ``[N, F]``: every position of every example is a sample."""
        return activation.movedim(self.dim, -1).reshape(-1, activation.shape[self.dim])


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The interchangeable units of one place in the network.

    Args:
        name: Stable across runs, processes and devices: the dotted name of the layer that first writes the units.
        size: Number of units ``U``.
        incoming: Slots that write the units: weight rows (``kind`` "weight") first, then biases ("bias").
        norms: Per-unit entries on the way: norm affine parameters and running statistics ("scale", "shift", "mean",
            "variance"), and PReLU slopes, depthwise kernels, layer scales ("carried").
        outgoing: Slots that read the units: weight columns (all of ``kind`` "weight").
        tap: Where the activation is observed; None if no module's input or output carries it. That is so for the
            values of ``nn.MultiheadAttention``: its function reads ``out_proj.weight`` and never calls ``out_proj``.
        coupled: Whether something on the way (LayerNorm, GroupNorm) mixes the units, so that replacing one is only
            approximately silent for the others.
        residual: Whether the units are a residual stream: a layer that (indirectly) reads them also adds to them.
    """

    name: str
    size: int
    incoming: tuple[Slot, ...]
    norms: tuple[Slot, ...]
    outgoing: tuple[Slot, ...]
    tap: Tap | None
    coupled: bool = False
    residual: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots of the group: incoming, norms, outgoing."""
        return self.incoming + self.norms + self.outgoing

    def bound_to(self, modules: Mapping[str, nn.Module]) -> UnitGroup:
        """Return the same units in the modules of another model, or of a changed one.

        Args:
            modules: Every module of that model by its dotted name.
        """

        def bound(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
            return tuple(replace(slot, module=modules[slot.path.rpartition(".")[0]]) for slot in slots)

        tap = None if self.tap is None else replace(self.tap, module=modules[self.tap.path])
        return replace(
            self, incoming=bound(self.incoming), norms=bound(self.norms), outgoing=bound(self.outgoing), tap=tap
        )
