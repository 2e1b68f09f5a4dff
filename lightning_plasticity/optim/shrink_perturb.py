"""Shrink the weights and add noise to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import (
    InvalidArgumentError,
    UnsupportedModelError,
    check_choice,
    check_entries,
    check_module,
    check_number,
)
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.parameters import checked_parameters


def check_shrinking(shrink: object, noise_std: object, noise: object) -> None:
    """Refuse settings of :class:`ShrinkPerturb` outside of their range.

    Args:
        shrink: The factor of the weights.
        noise_std: The factor of the noise.
        noise: The kind of noise.

    Raises:
        InvalidArgumentError: If one is refused.
    """
    check_number("shrink", shrink, "[0, 1]")
    check_number("noise_std", noise_std, "[0, inf)")
    check_choice("noise", noise, ("gaussian", "initialization"))


def check_moment(every: object, moments: Sequence[str], every_n_steps: int) -> None:
    """Refuse unknown moments to act, and a number of steps where no steps are counted.

    Args:
        every: The moment.
        moments: The known ones, ``"step"`` among them.
        every_n_steps: Steps between two actions.

    Raises:
        InvalidArgumentError: If one is refused.
    """
    check_choice("every", every, moments)
    check_number("every_n_steps", every_n_steps, "[1, inf)", whole=True)
    if every_n_steps != 1 and every != "step":
        raise InvalidArgumentError(
            f"every_n_steps={every_n_steps} with every={every!r}", "every='step', which counts steps", "Pass it as well"
        )


class ShrinkPerturb:
    r"""Shrinks all trainable weights and adds noise: :math:`w \leftarrow \lambda w + \sigma \xi`.

    Parameters that are frozen at the time (``requires_grad=False``) stay as they are.

    Args:
        model: The model whose parameters are treated.
        shrink: The factor :math:`\lambda`, in ``[0, 1]``.
        noise_std: The factor :math:`\sigma` of the noise, at least 0.
        noise: ``"gaussian"``: independent of standard deviation 1; ``"initialization"``: a fresh initialisation by the
            layers' own ``reset_parameters``.
        parameters: The parameters to treat; None treats all.
        seed: Seed of the noise, equal on all processes; None takes torch's global seed.

    Raises:
        InvalidArgumentError: If a value is outside its range.
        UnsupportedModelError: If a treated parameter belongs to a layer that cannot initialise itself.

    References:
        Ash and Adams, `On Warm-Starting Neural Network Training` (NeurIPS 2020), section 4.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.weight.data.fill_(2.0)
        >>> ShrinkPerturb(layer, shrink=0.5, noise_std=0.0)()
        >>> layer.weight.item()
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        shrink: float = 0.5,
        noise_std: float = 0.01,
        noise: Literal["gaussian", "initialization"] = "gaussian",
        parameters: Iterable[Tensor] | None = None,
        seed: int | None = None,
    ) -> None:
        check_module(model)
        check_shrinking(shrink, noise_std, noise)
        self.model, self.shrink, self.noise_std, self.noise = model, shrink, noise_std, noise
        self.chosen = checked_parameters(parameters) or list(model.parameters())
        self.source = NoiseSource(seed)
        if noise == "initialization":
            self._check_layers()

    @torch.no_grad()
    def __call__(self) -> None:
        """Shrink and perturb once."""
        fresh = self._fresh() if self.noise == "initialization" and self.noise_std > 0 else {}
        for parameter in [each for each in self.chosen if each.requires_grad]:
            parameter.mul_(self.shrink)
            if parameter in fresh:
                parameter.add_(fresh[parameter], alpha=self.noise_std)
            elif self.noise_std > 0:
                parameter.add_(self.source.draw(parameter, self.noise_std))

    def _layers(self) -> dict[str, nn.Module]:
        """Return the layers that own treated parameters, by name."""
        chosen = set(self.chosen)
        return {
            name: module
            for name, module in self.model.named_modules()
            if any(p in chosen for p in module.parameters(recurse=False))
        }

    def _fresh(self) -> dict[Tensor, Tensor]:
        """Return a fresh initialisation of the treated parameters: each layer draws one and gets its own back."""
        seed = int(torch.randint(2**62, (), generator=self.source.on(torch.device("cpu"))))
        fresh: dict[Tensor, Tensor] = {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in self._layers().values():
                tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
                kept = [tensor.clone() for tensor in tensors]
                layer.reset_parameters()  # type: ignore[operator]
                fresh |= {tensor: tensor.clone() for tensor in tensors if isinstance(tensor, nn.Parameter)}
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
        return fresh

    def _check_layers(self) -> None:
        unable = [
            name for name, layer in self._layers().items() if not callable(getattr(layer, "reset_parameters", None))
        ]
        if unable:
            raise UnsupportedModelError(
                f"the layers {unable} own parameters and have no `reset_parameters`",
                "layers that can initialise themselves",
                "Give them a method `reset_parameters`, leave them out, or use noise='gaussian'",
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the noise."""
        return {"noise": self.source.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the noise of a saved state."""
        check_entries(state_dict, "noise")
        self.source.load_state_dict(state_dict["noise"])
