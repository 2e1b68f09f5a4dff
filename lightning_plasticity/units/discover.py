"""Find the units of a chain of layers, in the order in which the model runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units.group import Tap, UnitGroup
from lightning_plasticity.units.slot import Slot
from lightning_plasticity.units.unit_map import Skipped, UnitMap

_CONTRACTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def discover_units(model: nn.Module, example_inputs: Any, *, residual: str = 'skip') -> UnitMap:
    names = {module: name for name, module in model.named_modules()}
    ran: list[tuple[nn.Module, torch.Size]] = []
    handles = [
        m.register_forward_hook(lambda m, a, o: ran.append((m, a[0].shape)))
        for m in model.modules()
        if isinstance(m, _CONTRACTIONS + _NORMS)
    ]
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            if callable(example_inputs):
                example_inputs()
            elif isinstance(example_inputs, dict):
                model(**example_inputs)
            else:
                model(*(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)))
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes.items():
            m.training = mode
    if not ran:
        raise UnsupportedModelError("no layer of the model ran on the example", "a model with Linear or Conv layers", "Check `example_inputs`")
    groups, skipped = [], []
    layers = [(i, m, s) for i, (m, s) in enumerate(ran) if isinstance(m, _CONTRACTIONS)]
    for (i, writer, _), (j, reader, shape) in zip(layers, layers[1:], strict=False):
        size = writer.weight.shape[0]
        dim = -1 if isinstance(reader, nn.Linear) else -(reader.weight.ndim - 1)
        features = shape[dim]
        norms = [m for m, _ in ran[i + 1 : j] if isinstance(m, _NORMS)]
        if features % size or any(n.num_features != size for n in norms):
            skipped.append(Skipped(names[writer], "not a chain"))
            continue
        rows = torch.arange(size)[:, None]
        columns = torch.arange(features).reshape(size, -1)

        def slots(module: nn.Module, **kinds: str) -> tuple[Slot, ...]:
            return tuple(Slot(module, a, f"{names[module]}.{a}", (0,), (rows,), kind=k) for a, k in kinds.items() if getattr(module, a) is not None)
        groups.append(UnitGroup(
            names[writer], size, slots(writer, weight="weight", bias="bias"),
            tuple(s for n in norms for s in slots(n, weight="scale", bias="shift", running_mean="mean", running_var="variance")),
            (Slot(reader, "weight", f"{names[reader]}.weight", (1,), (columns,)),),
            Tap(reader, names[reader], "input", 0, dim, columns),
        ))
    return UnitMap(model, tuple(groups), tuple(skipped))
