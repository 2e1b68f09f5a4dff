"""The labels of a view are the same view of the labels, also after something was written into it."""

from __future__ import annotations

import pytest
import torch
from support.labelled import Bench

VIEWS = {
    "transpose": lambda x: x.transpose(0, 2),
    "permute": lambda x: x.permute(2, 0, 1),
    "slice": lambda x: x[:, 1:3],
    "step": lambda x: x[..., ::2],
    "select": lambda x: x[:, 2],
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.view(2, 2, 2, 3),
    "expand": lambda x: x[:, :1].expand(2, 5, 3),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "diagonal": lambda x: x.diagonal(dim1=0, dim2=1),
    "strided": lambda x: x.as_strided((2, 3), (12, 1), 3),
    "unfold": lambda x: x.unfold(1, 2, 1),
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("dims", [(1,), (1, 2), (0, 1, 2)])
def test_a_view_of_data_has_that_view_of_its_labels(kind, dims):
    bench = Bench()
    x = bench.data(2, 4, 3, dims=dims)
    labels = bench.of(x).contiguous()
    assert torch.equal(bench.of(bench(VIEWS[kind], x)), VIEWS[kind](labels))


def test_chunks_have_the_labels_of_their_part():
    bench = Bench()
    x = bench.data(2, 6)
    parts = bench(torch.chunk, x, 3, 1)
    assert [bench.of(part)[0].tolist() for part in parts] == bench.of(x)[0].reshape(3, 2).tolist()


def test_what_is_written_into_a_view_is_seen_in_the_whole():
    bench = Bench()
    x, y = bench.data(2, 4), bench.data(2, 2)
    before = bench.of(x)[0].tolist()
    bench(lambda: x[:, 1:3].copy_(y))
    assert bench.of(x)[0].tolist() == [before[0], *bench.of(y)[0].tolist(), before[3]]


def test_real_and_imaginary_parts_of_one_unit_are_its_complex_number():
    bench = Bench()
    x = bench.data(2, 3, 2, dims=(1,))
    z = bench(torch.view_as_complex, x)
    assert torch.equal(bench.of(z), bench.of(x)[..., 0])
    assert torch.equal(bench.of(bench(torch.view_as_real, z)), bench.of(x))


def test_a_conjugate_has_the_labels_of_the_number():
    bench = Bench()
    x = bench.data(2, 3, values=torch.randn(2, 3, dtype=torch.complex64))
    assert torch.equal(bench.of(bench(torch.conj, x)), bench.of(x))
    assert torch.equal(bench.of(bench(lambda x: x.conj().imag, x)), bench.of(x))
