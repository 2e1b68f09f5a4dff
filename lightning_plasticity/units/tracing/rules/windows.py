"""Pooling and resampling: they mix positions, never channels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.rules.registry import Labelling, rule
from lightning_plasticity.units.tracing.rules.unknown import unknown
from lightning_plasticity.units.tracing.why import COMBINED

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution


@rule(
    "avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"
)
def window(run: Execution, call: Call) -> Labelling:
    """Keep labels that do not vary in space; the places of maxima do not vanish with them."""
    labels = run.of(call.args[0])
    if labels is None:
        return [None] * len(call.outs)
    found = re.search(r"(\d)d", call.name)
    space = int(found.group(1)) if found else 2
    if any(n > 1 for n in labels.shape[labels.ndim - space :]):
        return unknown(run, call)
    return [labels, *[run.labels.shift(labels)] * (len(call.outs) - 1)]


@rule("grid_sampler_2d grid_sampler_3d cudnn_grid_sampler _grid_sampler_2d_cpu_fallback")
def sample(run: Execution, call: Call) -> Labelling:
    """Resample at given places: channels keep their labels, and what says where scales all of them at once."""
    x, grid = call.args[:2]
    channels = run.mix(run.of(x), list(range(2, x.ndim)), COMBINED)
    places = run.mix(run.of(grid), [grid.ndim - 1], COMBINED)
    return run.meet(channels, None if places is None else run.labels.shift(places.movedim(-1, 1)))
