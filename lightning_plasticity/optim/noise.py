"""Gaussian noise from generators of our own: the same on every process, resumable, and never the user's stream."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_plasticity.errors import check_entries, check_seed

_OFFSET = 0x5DEECE66D  # so that the noise does not repeat the very numbers that initialised the weights
_SEEDS = 2**63 - 1


class NoiseSource:
    """Random numbers for an engine, one generator per device.

    Args:
        seed: Seed, equal on all processes; None takes the global seed of torch, which is then made equal to that of
            process 0 at the first draw if ``torch.distributed`` runs.

    Raises:
        InvalidArgumentError: If the seed is no whole number, or negative.

    Example:
        >>> zeros = torch.zeros(4)
        >>> NoiseSource(seed=0).draw(zeros, 1.0).equal(NoiseSource(seed=0).draw(zeros, 1.0))
        True
    """

    def __init__(self, seed: int | None = None) -> None:
        check_seed(seed)
        self._agreed = seed is not None
        self._seed = (int(torch.initial_seed() if seed is None else seed) + _OFFSET) % _SEEDS
        self._generators: dict[str, torch.Generator] = {}
        self._restored: dict[str, Tensor] = {}

    def draw(self, like: Tensor, std: float) -> Tensor:
        """Return fresh zero-mean noise in the shape, in the dtype and on the device of ``like``.

        Args:
            like: The tensor the noise is for.
            std: Standard deviation, at least 0.

        Returns:
            The noise, contiguous. On the CPU, drawing a tensor in blocks of a multiple of 16 entries (and no block
            shorter than that) gives the same numbers as drawing it at once.
        """
        noise = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        return noise.normal_(0.0, std, generator=self.on(like.device))

    def fill(self, targets: list[Tensor], std: float) -> None:
        """Overwrite contiguous tensors with noise, the same that :meth:`draw` returns for one after the other.

        Args:
            targets: The tensors, all on one device.
            std: Standard deviation, at least 0.
        """
        generator = self.on(targets[0].device)
        for target in targets:
            target.normal_(0.0, std, generator=generator)

    def on(self, device: torch.device) -> torch.Generator:
        """Return the generator of ``device``, made and seeded at its first use."""
        key = str(device)
        if key not in self._generators:
            self._agree()
            generator = torch.Generator(device).manual_seed(self._seed)
            self._generators[key] = generator
            if key in self._restored:
                generator.set_state(self._restored.pop(key))
        return self._generators[key]

    def _agree(self) -> None:
        """Take over the seed of process 0, once."""
        if not self._agreed and torch.distributed.is_available() and torch.distributed.is_initialized():
            seeds = [self._seed]
            torch.distributed.broadcast_object_list(seeds)
            self._seed = seeds[0]
        self._agreed = True

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the seed, and the state of the generator of every device as a tensor."""
        return {"seed": self._seed} | self._restored | {key: g.get_state() for key, g in self._generators.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor | int]) -> None:
        """Continue where ``state_dict`` was taken.

        Args:
            state_dict: What :meth:`state_dict` returned. A device without an entry starts from the seed.

        Raises:
            StateMismatchError: If it is something else.
        """
        check_entries(state_dict, "seed")
        self._seed, self._agreed, self._generators = int(state_dict["seed"]), True, {}
        self._restored = {key: state.cpu() for key, state in state_dict.items() if isinstance(state, Tensor)}
