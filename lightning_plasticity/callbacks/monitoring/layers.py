"""Which layers are watched, and how their features and weights are read.

Letters: ``N`` examples, ``U`` units (or features), ``K`` features per unit where it is read, ``P`` positions of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import Tap, UnitGroup
from lightning_plasticity.units.patterns import check_patterns, matches

Listener = Callable[[Tensor], None]


@dataclass(frozen=True, eq=False)
class WatchedLayer:
    """A place in the network whose features are measured.

    Args:
        name: Dotted name under which it is logged.
        watch: Calls a listener with the tensor at this place in every forward pass, until the handle is removed.
        features: Turns that tensor into features ``[N, U, *P]``.
    """

    name: str
    watch: Callable[[Listener], RemovableHandle]
    features: Callable[[Tensor], Tensor]


def watched_groups(groups: Iterable[UnitGroup]) -> tuple[WatchedLayer, ...]:
    """Return the layers of unit groups, each read where its units are consumed.

    Args:
        groups: The groups; those without a tap are left out.

    Returns:
        One layer per group.
    """
    return tuple(WatchedLayer(g.name, g.tap.watch, _Units(g.tap)) for g in groups if g.tap is not None)


def watched_modules(model: nn.Module, patterns: Sequence[str]) -> tuple[WatchedLayer, ...]:
    """Return the modules whose name matches a pattern; what is read is their output.

    Args:
        model: The model.
        patterns: As in file names, such as ``"encoder.layers.*.mlp"``.

    Returns:
        One layer per module, in the order of the model.

    Raises:
        InvalidArgumentError: If a pattern matches no module.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    check_patterns("layers", patterns, list(modules), "module")
    chosen = [(name, module) for name, module in modules.items() if matches(name, patterns)]
    return tuple(WatchedLayer(name, _OutputWatch(name, module), _channels) for name, module in chosen)


def weights_of(
    layer_names: Iterable[str], groups: Iterable[UnitGroup], model: nn.Module
) -> dict[str, list[nn.Parameter]]:
    """Return the weights of layers: of those that write or read units, or of modules by name.

    Args:
        layer_names: Names of modules; used if there are no groups.
        groups: Unit groups.
        model: The model.

    Returns:
        Parameters with at least two dimensions (no biases, no norms) by the dotted name of their layer.
    """
    slots = [slot for group in groups for slot in (*group.incoming, *group.outgoing) if slot.kind == "weight"]
    modules = {slot.path.rpartition(".")[0]: slot.module for slot in slots}
    if not slots:
        modules = {name: model.get_submodule(name) for name in layer_names}
    weights = {name: [p for p in module.parameters() if p.ndim > 1] for name, module in modules.items()}
    return {name: parameters for name, parameters in weights.items() if parameters}


@dataclass(frozen=True, eq=False)
class _Units:
    """The features of the units of a tap."""

    tap: Tap

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.detach()
        x = (x if x.ndim > 1 else x[None]).movedim(self.tap.dim, 1 if x.ndim > 1 else -1)
        index = self.tap.index
        if index.shape[1] == 1 and index.shape[0] == x.shape[1]:
            is_everything = torch.equal(index.cpu()[:, 0], torch.arange(x.shape[1]))
            return x if is_everything else x[:, index[:, 0].to(x.device)]
        return x[:, index.to(x.device)]


@dataclass(frozen=True, eq=False)
class _OutputWatch:
    """Watches the output of a module."""

    name: str
    module: nn.Module

    def __call__(self, listener: Listener) -> RemovableHandle:
        def listen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list)) and output else output
            if not isinstance(tensor, Tensor) or tensor.ndim < 2:
                raise UnsupportedModelError(
                    f"the output of {self.name!r} is a {type(output).__name__} without a tensor of features",
                    "a module that returns a tensor [N, ..., D] or [N, C, *positions], perhaps in a tuple",
                    "Leave it out of `layers`",
                )
            listener(tensor)

        return self.module.register_forward_hook(listen)


def _channels(output: Tensor) -> Tensor:
    """Return maps of four or more dimensions as they are, their channels being second; else the last as features."""
    return output.detach() if output.ndim >= 4 else output.detach().movedim(-1, 1)
