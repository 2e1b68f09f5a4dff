"""Reset layers, or the whole network, when the experience changes: the baselines that pay with what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_begins, experience_changes, stream_of
from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError, check_flags, check_seed
from lightning_plasticity.streams.randomness import derived_generator
from lightning_plasticity.units.patterns import as_patterns, check_patterns, matches


@runtime_checkable
class Resettable(Protocol):
    """A layer that can draw its parameters anew and return its statistics to their first values, as torch's own can."""

    def reset_parameters(self) -> None:
        """Reset the layer in place."""


class LayerReset(pl.Callback):
    """Reset some layers at the beginning of every experience but the first, and the optimizer's memory of them.

    With the last layer this is *head resetting*. Batch norms that are included get their running statistics reset, too.
    It needs a :class:`~lightning_plasticity.streams.StreamDataModule`.

    Differs from the published code of the CIFAR-100 experiment, which keeps momentum; ``reset_optimizer=False`` does.

    Args:
        include: Dotted names of the layers, or patterns with ``*`` and ``?``; the layers inside are included.
        initializer: Called with each layer that has parameters or buffers of its own, inside a fork of torch's random
            state; None calls the layer's ``reset_parameters``.
        first: Whether the first experience begins with a reset, too.
        reset_optimizer: Whether the optimizer forgets moments and step counts of the parameters.
        seed: Seed of the new values; None takes torch's global seed at construction. It travels in checkpoints.

    Raises:
        InvalidArgumentError: If no layer is named, or a pattern matches none (when the fit starts).
        UnsupportedModelError: If a layer cannot be reset without an ``initializer`` (when the fit starts).

    References:
        Nikishin et al., The primacy bias in deep reinforcement learning (ICML 2022). Dohare et al., Loss of plasticity
        in deep continual learning (Nature 632, 2024), head resetting.

    Example::

        trainer = pl.Trainer(callbacks=LayerReset("net.head"))
    """

    def __init__(
        self,
        include: Sequence[str] | str,
        *,
        initializer: Callable[[nn.Module], None] | None = None,
        first: bool = False,
        reset_optimizer: bool = True,
        seed: int | None = None,
    ) -> None:
        self.include = as_patterns("include", () if include is None else include) or ()
        self.initializer, self.first, self.reset_optimizer = initializer, first, reset_optimizer
        if initializer is not None and not callable(initializer):
            raise InvalidArgumentError(
                f"initializer={initializer!r}", "a function of a layer", "Pass one, or None for `reset_parameters`"
            )
        check_flags(first=first, reset_optimizer=reset_optimizer)
        check_seed(seed)
        self.seed = int(torch.initial_seed() if seed is None else seed)

    @property
    @override
    def state_key(self) -> str:
        """Tell several of these callbacks apart in a checkpoint."""
        return f"{type(self).__qualname__}{self.include}"

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what could not be reset later on.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        stream_of(trainer)
        self._layers(pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the layers if an experience begins.

        Args:
            trainer: The Trainer.
            pl_module: The module.
        """
        if not (experience_begins(trainer) if self.first else experience_changes(trainer)):
            return
        layers = self._layers(pl_module)
        place = stream_of(trainer).current_experience
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            torch.manual_seed(derived_generator(self.seed, "reset", place).initial_seed())
            for layer in layers:
                _reset(layer, self.initializer)
        if self.reset_optimizer:
            for optimizer in trainer.optimizers:
                forget_layers(optimizer, layers)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of a saved run.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self.seed = state_dict["seed"]

    def _layers(self, pl_module: nn.Module) -> list[nn.Module]:
        return resettable_layers(pl_module, self.include, any_layer=self.initializer is not None)


class FromScratch(LayerReset):
    """Train a new network on every experience: all layers, norm statistics and the optimizer's memory are reset.

    Differs from the published "retrained network", which keeps momentum and the running statistics of batch norms.

    Args:
        initializer: As in :class:`LayerReset`; pass the function that initialised the network.
        seed: Seed of the new networks; None takes torch's global seed at construction.

    Example::

        trainer = pl.Trainer(callbacks=FromScratch())
    """

    def __init__(self, *, initializer: Callable[[nn.Module], None] | None = None, seed: int | None = None) -> None:
        super().__init__("*", initializer=initializer, seed=seed)


def resettable_layers(model: nn.Module, include: Sequence[str], *, any_layer: bool = False) -> list[nn.Module]:
    """Return the layers of a model that have tensors of their own and lie at or below a name.

    Args:
        model: The model.
        include: Dotted names or patterns.
        any_layer: Whether layers without ``reset_parameters`` are wanted, too. If not, those that have parameters are
            refused, and those that have buffers only are left alone.

    Returns:
        The layers, outer ones first.

    Raises:
        InvalidArgumentError: If a pattern matches nothing that has tensors.
        UnsupportedModelError: If a layer has parameters but no ``reset_parameters``.
    """
    owners = {
        name: module
        for name, module in model.named_modules()
        if _has_parameters(module) or next(module.buffers(recurse=False), None) is not None
    }
    places = {".".join(parts[: end + 1]) for parts in (name.split(".") for name in owners) for end in range(len(parts))}
    check_patterns("include", include, sorted(places), "layer with parameters")
    below = [*include, *(f"{pattern}.*" for pattern in include)]
    chosen = {name: module for name, module in owners.items() if matches(name, below)}
    if not any_layer:
        foreign = [name for name, m in chosen.items() if not isinstance(m, Resettable) and _has_parameters(m)]
        if foreign:
            raise UnsupportedModelError(
                f"layers without `reset_parameters`: {foreign}",
                "layers that can draw their parameters anew",
                "Leave them out of `include` or pass an `initializer`",
            )
    return [module for name, module in owners.items() if name in chosen]


def forget_layers(optimizer: Optimizer, layers: Iterable[nn.Module]) -> None:
    """Remove what an optimizer keeps for the parameters of some layers, so that it meets them as new.

    Args:
        optimizer: The optimizer.
        layers: The layers.
    """
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            optimizer.state.pop(parameter, None)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _reset(layer: nn.Module, initializer: Callable[[nn.Module], None] | None) -> None:
    if initializer is not None:
        initializer(layer)
    elif isinstance(layer, Resettable):
        layer.reset_parameters()
