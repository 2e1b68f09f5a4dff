"""Attention compares queries with keys and passes values on, fused or written out."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_plasticity.units.tracing.why import MATCHED


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_values_keep_their_labels_and_queries_and_keys_are_spoiled(backend):
    bench = Bench()
    query, key, value = (bench.data(2, 1, 5, 4) for _ in range(3))
    with sdpa_kernel(backend):
        out = bench(F.scaled_dot_product_attention, query, key, value)
    assert torch.equal(bench.of(out), bench.of(value))
    assert (bench.reasons(query), bench.reasons(key), bench.reasons(value)) == ({MATCHED}, {MATCHED}, {""})
