"""Rows of a weight write units, its columns read them; what meets no weight is compared."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench
from torch import nn
from torch.nn import functional as F

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, UNREAD


def using(*shape: int) -> tuple[Bench, nn.Parameter]:
    """Return a bench and a parameter of its model."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(shape))
    return Bench(model), model.weight


def uses(bench: Bench) -> dict[str, torch.Tensor]:
    return {use.role: use.labels for use in bench.run.uses.values()}


PRODUCTS = {
    "linear": ((5, 3), lambda x, w: F.linear(x, w)),
    "three dimensions": ((5, 3), lambda x, w: F.linear(x.expand(4, 2, 3), w)),
    "from the left": ((5, 3), lambda x, w: (w @ x.t()).t()),
    "transposed": ((3, 5), lambda x, w: x @ w),
    "einsum": ((5, 3), lambda x, w: torch.einsum("bi,oi->bo", x, w)),
    "convolution": ((5, 3, 1), lambda x, w: F.conv1d(x[..., None], w)[..., 0]),
    "transposed convolution": ((3, 5, 1), lambda x, w: F.conv_transpose1d(x[..., None], w)[..., 0]),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_columns_read_the_units_of_the_input_and_rows_write_new_ones(kind):
    shape, function = PRODUCTS[kind]
    bench, weight = using(*shape)
    x = bench.data(2, 3)
    out = bench.of(bench(function, x, weight))
    found = uses(bench)
    assert found["out"].flatten().tolist() == bench.of(x)[0].tolist()
    assert found["in"].flatten().tolist() == out.reshape(-1, 5)[0].tolist()
    assert out.unique().numel() == 5
    assert (found["out"].shape, found["in"].shape) == tuple(
        tuple(n if n == size else 1 for n in shape) for size in (3, 5)
    )


def test_the_same_weight_used_twice_writes_the_same_units():
    bench, weight = using(5, 3)
    first, second = (bench(F.linear, bench.data(2, 3, dims=()), weight) for _ in range(2))
    assert torch.equal(bench.of(first), bench.of(second))


def test_a_part_of_a_weight_has_the_rows_of_the_part():
    bench, weight = using(6, 3)
    whole = bench.of(bench(F.linear, bench.data(2, 3, dims=()), weight))[0]
    part = bench.of(bench(lambda x: F.linear(x, weight[2:4]), bench.data(2, 3, dims=())))[0]
    assert part.tolist() == whole[2:4].tolist()


def test_groups_of_a_convolution_read_their_own_channels():
    bench, weight = using(4, 2, 3)
    x = bench.data(1, 4, 5, dims=(1,))
    bench(F.conv1d, x, weight, groups=2)
    channels = bench.of(x)[0, :, 0].reshape(2, 2)
    assert uses(bench)["out"][..., 0].tolist() == channels.repeat_interleave(2, 0).tolist()


def test_a_depthwise_convolution_passes_channels_on_and_its_kernels_join_them():
    bench, weight = using(4, 1, 3)
    x = bench.data(1, 4, 5, dims=(1,))
    out = bench(F.conv1d, x, weight, groups=4)
    assert torch.equal(bench.labels.find(bench.of(out)[..., 0]), bench.of(x)[..., 0])
    entries = bench.run.sources.entries(bench.run.sources.all[0])
    assert torch.equal(bench.labels.find(entries), bench.of(x)[0, :, :1, None].expand(4, 1, 3))


def test_an_embedding_reads_nothing_and_writes_a_unit_per_column():
    bench, weight = using(7, 3)
    out = bench(F.embedding, bench.data(2, 5, dims=(), values=torch.zeros(2, 5, dtype=torch.long)), weight)
    assert uses(bench)["in"].shape == (1, 3)
    assert uses(bench)["out"].unique().tolist() == [NOBODY]
    assert bench.of(out)[0, 0].tolist() == uses(bench)["in"][0].tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_bag_of_embeddings_writes_a_unit_per_column_and_what_weighs_it_is_context(weighted):
    bench, weight = using(7, 3)
    ids = bench.data(2, 5, dims=(), values=torch.zeros(2, 5, dtype=torch.long))
    weights = bench.data(2, 5) if weighted else None
    out = bench(F.embedding_bag, ids, weight, mode="sum", per_sample_weights=weights)
    assert bench.of(out)[0].tolist() == uses(bench)["in"][0].tolist()
    assert uses(bench)["out"].unique().tolist() == [NOBODY]
    assert not weighted or "" not in bench.reasons(weights)


def test_rows_and_columns_of_pairs_read_as_complex_numbers_are_those_of_the_pairs():
    bench, weight = using(5, 3, 2)
    x = bench.data(4, 3, values=torch.randn(4, 3, dtype=torch.cfloat))
    out = bench(lambda: x @ torch.view_as_complex(weight).t())
    assert uses(bench)["in"].shape == (5, 1, 1)
    assert uses(bench)["out"].tolist() == [[[unit] for unit in bench.of(x)[0].tolist()]]
    assert bench.of(out)[0].tolist() == uses(bench)["in"][:, 0, 0].tolist()


def test_columns_of_data_without_units_are_foreign():
    bench, weight = using(5, 3)
    bench(F.linear, bench.data(2, 3, dims=()), weight)
    assert uses(bench)["out"].unique().tolist() == [FOREIGN]
    assert UNREAD not in uses(bench)["out"]


@pytest.mark.parametrize("function", [torch.matmul, lambda a, b: torch.bmm(a[None], b[None])[0]])
def test_activations_that_are_compared_with_each_other_are_mixed_where_they_meet(function):
    bench = Bench()
    a, b = bench.data(2, 3, dims=(1,)), bench.data(3, 4, dims=(1,))
    out = bench.of(bench(function, a, b))
    assert torch.equal(bench.labels.find(out), bench.labels.find(bench.of(b)[:2]))


def test_a_bias_is_added_to_the_units_of_the_rows():
    layer = nn.Linear(3, 5)
    bench = Bench(layer)
    out = bench(layer, bench.data(2, 3, dims=()))
    bias = next(source for source in bench.run.sources.all if source.name == "bias")
    assert bias.kinds == {"bias"}
    assert torch.equal(bench.labels.find(bench.run.sources.entries(bias)), bench.labels.find(bench.of(out)[0]))
