"""What the taps of groups show while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from lightning_plasticity.units.group import Tap
from lightning_plasticity.units.proof.laws import Chosen
from lightning_plasticity.units.proof.sandbox import Sandbox
from lightning_plasticity.units.statistics import FrozenStatistics


def activations(box: Sandbox, chosen: Chosen, *modes: FrozenStatistics) -> dict[str, list[Tensor]]:
    """Return what the tap of every group sees in one run, per call the features of every unit, ``[N, U, K]``."""
    seen: dict[str, list[Tensor]] = {group.name: [] for group, _ in chosen}

    def collect(name: str, tap: Tap, activation: Tensor) -> None:
        seen[name].append(tap.samples(activation.detach())[:, tap.index.to(activation.device)].clone())

    _watch(box, chosen, collect, *modes)
    return seen


def run_watched(box: Sandbox, chosen: Chosen, *modes: FrozenStatistics) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return the output, and in place of all samples that each tap sees one random combination of them, ``[1, U, K]``.

    Every sample has its own random weight, so what changes for any sample changes the combination.
    """
    seen: dict[str, list[Tensor]] = {group.name: [] for group, _ in chosen}

    def collect(name: str, tap: Tap, activation: Tensor) -> None:
        samples = tap.samples(activation.detach())
        generator = torch.Generator("cpu").manual_seed(len(seen[name]))
        weights = torch.randn(len(samples), generator=generator, dtype=torch.float64, device="cpu").to(samples)
        seen[name].append((weights @ samples)[None, tap.index.to(activation.device)])

    return _watch(box, chosen, collect, *modes), seen


def _watch(
    box: Sandbox, chosen: Chosen, collect: Callable[[str, Tap, Tensor], None], *modes: FrozenStatistics
) -> list[Tensor]:
    with ExitStack() as stack:
        for group, _ in chosen:
            if group.tap is not None:
                stack.callback(group.tap.watch(partial(collect, group.name, group.tap)).remove)
        return box.run(*modes)
