"""A weight column that reads a unit and anything else, or that leads nowhere, makes no unit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.units import discover_units, verify_units

L = nn.Linear


class Net(nn.Module):
    """Layers ``a``, ``b``, ... and a forward pass given as a function of the network and its input."""

    def __init__(self, forward, *layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        torch.manual_seed(0)
        for name, layer in zip("abcdefgh", layers, strict=False):
            layer.reset_parameters()
            self.add_module(name, layer)

    def forward(self, x: Tensor):
        return self.function(self, x)


def attend(net: Net, x: Tensor) -> Tensor:
    weights = (net.a(x) @ net.b(x).transpose(1, 2)).softmax(-1)
    return net.d(weights + weights @ net.c(x))


def squeezed(net: Net, x: Tensor) -> Tensor:
    channels = net.a(x[:, None, :, None]).flatten(1)
    return net.d(channels + net.c(net.b(channels).relu()))


def normed_input(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.d(y + net.c(net.b(y).relu()))


def attention(net: Net, h: Tensor) -> Tensor:
    return (net.b(h) @ net.c(h).transpose(1, 2)).softmax(-1) @ net.d(h)


def half(x: Tensor) -> Tensor:
    return x.chunk(2, -1)[0]


X, SEQUENCE = (6, 5), (6, 4, 6)

WRONG = {
    "attention_weights_added_to_values": (attend, (L(6, 4), L(6, 4), L(6, 4), L(4, 3)), SEQUENCE, {"c"}),
    "flattened_channels_in_a_sum": (squeezed, (nn.Conv2d(1, 3, 1), L(15, 5), L(5, 15), L(15, 3)), X, {"a", "c"}),
    "scaled_input_in_a_sum": (normed_input, (nn.LayerNorm(5), L(5, 5), L(5, 5), L(5, 3)), X, {"c"}),
    "input_in_a_sum": (lambda n, x: n.c(x + n.b(n.a(x).relu())), (L(5, 5), L(5, 5), L(5, 3)), X, {"b"}),
    "input_in_a_maximum": (lambda n, x: n.b(torch.maximum(n.a(x), x)), (L(5, 5), L(5, 3)), X, {"a"}),
    "input_in_a_choice": (lambda n, x: n.b(torch.where(x > 0, n.a(x), x)), (L(5, 5), L(5, 3)), X, {"a"}),
    "input_in_a_product_and_sum": (lambda n, x: n.b(torch.addcmul(x, n.a(x), x)), (L(5, 5), L(5, 3)), X, {"a"}),
    "mean_with_the_input": (
        lambda n, x: n.b(torch.cat([x, n.a(x)], -1).mean(-1, keepdim=True)), (L(5, 4), L(1, 3)), X, {"a"},
    ),
    "input_behind_an_open_gate": (
        lambda n, x: n.b(x * torch.sigmoid(n.a(x))), (L(5, 5, bias=False), L(5, 3)), X, {"a"},
    ),
    "input_modulated_around_one": (lambda n, x: n.b(x * (1 + n.a(x))), (L(5, 5), L(5, 3)), X, {"a"}),
    "input_under_the_gate_of_a_gated_linear_unit": (
        lambda n, x: n.b(nn.functional.glu(torch.cat([x, n.a(x)], -1))), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_scaled_by_a_unit_and_its_gate": (
        lambda n, x: n.b(x * ((h := n.a(x)) + torch.sigmoid(h))), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_kept_where_a_unit_is_filled_with_one": (
        lambda n, x: n.b(n.a(x).relu().masked_fill(x > 0, 1.0)), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_kept_where_the_unit_is_zero": (
        lambda n, x: n.b(torch.where(n.a(x) > 0, 0.0, x)), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_masked_by_a_unit": (lambda n, x: n.b(x.masked_fill(n.a(x) > 0, 0.0)), (L(5, 5), L(5, 3)), X, {"a"}),
    "input_under_a_negated_mask": (lambda n, x: n.b(~(n.a(x) > 0) * x), (L(5, 5), L(5, 3)), X, {"a"}),
    "input_where_a_unit_is_less_than_a_constant": (
        lambda n, x: n.b((n.a(x) < torch.full((5,), 0.3)) * x), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_under_a_power_of_a_constant": (
        lambda n, x: n.b(torch.full((5,), 1.7).pow(n.a(x)) * x), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "input_where_a_unit_is_at_most_another": (
        lambda n, x: n.c((n.a(x).relu() <= n.b(x).relu()) * x), (L(5, 5), L(5, 5), L(5, 3)), X, {"a", "b"},
    ),
    "input_under_a_softmax_over_time": (
        lambda n, x: n.b((n.a(x).softmax(1) * x).sum(1)), (L(6, 6), L(6, 3)), SEQUENCE, {"a"},
    ),
    "input_under_the_logarithm_of_a_sum_over_time": (
        lambda n, x: n.b(n.a(x).logsumexp(1) * x[:, 0]), (L(6, 6), L(6, 3)), SEQUENCE, {"a"},
    ),
    "input_under_a_norm_without_a_scale": (
        lambda n, x: n.c(n.b(n.a(x).relu()) * x),
        (L(5, 5), nn.LayerNorm(5, elementwise_affine=False), L(5, 3)), X, {"a"},
    ),
    "input_under_a_padding_with_ones": (
        lambda n, x: n.b(nn.functional.pad(n.a(x).relu(), (1, 1), value=1.0) * x),
        (nn.Conv1d(4, 4, 3), nn.Conv1d(4, 3, 1)), SEQUENCE, {"a"},
    ),
    "a_number_written_where_the_input_says": (
        lambda n, x: n.b(n.a(x).scatter(1, x.argsort(1)[:, :2], 4.0)), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "a_number_written_under_a_mask_of_the_input": (
        lambda n, x: n.b(n.a(x).index_put((x > 0,), torch.tensor(1.0))), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "one_unit_added_to_many": (
        lambda n, x: n.c(n.a(x).relu() + n.b(x).tanh()), (L(5, 6), L(5, 1), L(6, 3)), X, {"a", "b"},
    ),
    "a_reader_whose_own_units_nobody_reads": (
        lambda n, x: n.c(torch.cat([x, n.b(n.a(x).relu())], -1)[:, :5]), (L(5, 7), L(7, 3), L(5, 3)), X, {"a", "b"},
    ),
    "a_weight_that_reads_what_it_writes_alone": (
        lambda n, x: n.c((h := half(n.a(x))) + n.b(h)), (L(5, 2), L(1, 1), L(1, 3)), X, {"a", "b"},
    ),
}  # fmt: skip

RIGHT = {
    "a_mask": (lambda n, x: n.b(n.a(x).relu() * (x.sum(-1, keepdim=True) > 0)), (L(5, 4), L(4, 3)), X, {"a"}),
    "a_foreign_factor": (lambda n, x: n.b(n.a(x).relu() * x[:, :4]), (L(5, 4), L(4, 3)), X, {"a"}),
    "a_constant_added": (lambda n, x: n.b(n.a(x).relu() + 1), (L(5, 4), L(4, 3)), X, {"a"}),
    "zeros_where_a_mask_says": (
        lambda n, x: n.b(torch.where(x > 0, h := n.a(x).relu(), torch.zeros_like(h)) * x), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "a_clamp_and_a_dropout": (
        lambda n, x: n.b(nn.functional.dropout(n.a(x).clamp_(0, 6), 0.5, n.training) * x), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "a_norm": (
        lambda n, x: n.c(n.b(n.a(x).relu())), (L(5, 4), nn.LayerNorm(4, elementwise_affine=False), L(4, 3)), X, {"a"},
    ),
    "a_norm_with_a_scale_as_a_gate": (
        lambda n, x: n.c(n.b(n.a(x).relu()) * x), (L(5, 5), nn.LayerNorm(5), L(5, 3)), X, {"a"},
    ),
    "a_quotient": (
        lambda n, x: n.b((h := n.a(x)) / (1 + h.abs()) * x), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "numbers_written_over_some_units": (
        lambda n, x: n.c(n.b(n.a(x).relu()).relu().scatter(1, torch.arange(2).repeat(len(x), 1), 4.0)),
        (L(5, 4), L(4, 6), L(6, 3)), X, {"a", "b"},
    ),
    "zero_written_where_the_input_says": (
        lambda n, x: n.b(n.a(x).relu().index_put((x > 0,), torch.tensor(0.0))), (L(5, 5), L(5, 3)), X, {"a"},
    ),
    "patches": (
        lambda n, x: n.b(nn.functional.unfold(n.a(x[:, None, :, None].expand(-1, 3, -1, 5)).relu(), 3).transpose(1, 2)),
        (nn.Conv2d(3, 2, 2), L(18, 3)), X, {"a"},
    ),
    "a_triangle_written_into_a_given_tensor": (
        lambda n, x: n.b(torch.tril(h := n.a(x), out=torch.empty_like(h))), (L(5, 6), L(6, 3)), X, {"a"},
    ),
    "a_gate_between_units": (
        lambda n, x: n.c(n.a(x) * torch.sigmoid(n.b(x))), (L(5, 4), L(5, 4), L(4, 3)), X, {"a"},
    ),
    "a_query_with_its_key": (
        lambda n, x: n.e(attention(n, n.a(x).tanh())),
        (L(6, 1), L(1, 4), L(1, 4), L(1, 4), L(4, 3)), SEQUENCE, {"a", "d"},
    ),
    "a_stream_of_one_unit": (
        lambda n, x: n.d((h := n.a(x)) + n.c(n.b(h).relu())), (L(5, 1), L(1, 7), L(7, 1), L(1, 3)), X, {"a", "b"},
    ),
}  # fmt: skip

GATED = {
    "by_a_norm_of_the_input": (
        lambda n, x: n.c(n.a(x) * n.b(x).sigmoid()), (L(5, 5), nn.BatchNorm1d(5), L(5, 3)), "ab",
    ),
    "by_a_norm_of_a_scaled_input": (
        lambda n, x: n.d(n.a(x) * n.b(n.c(x)).sigmoid()),
        (L(5, 5), nn.BatchNorm1d(5), nn.RMSNorm(5), L(5, 3)), "abc",
    ),
    "by_a_row_that_is_added_to_the_input": (
        lambda n, x: n.c(n.a(x) * (n.b(x) + x).sigmoid()), (L(5, 5), L(5, 5), L(5, 3)), "ab",
    ),
    "by_a_kernel_of_a_channel_of_the_input": (
        lambda n, x: n.c((n.a(x[:, :, None]) * n.b(x[:, :, None]).sigmoid()).flatten(1)),
        (nn.Conv1d(5, 5, 1), nn.Conv1d(5, 5, 1, groups=5), L(5, 3)), "ab",
    ),
    "by_a_step_of_its_own_with_a_common_state": (
        lambda n, x: n.d((n.a(x)[..., None] * (n.b(x).exp()[..., None] * n.c(x)[:, None])).sum(-1)),
        (L(5, 4), L(5, 4), L(5, 3), L(4, 3)), "ab",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_no_unit_shares_its_column(name) -> None:
    forward, layers, shape, declined = WRONG[name]
    model, x = Net(forward, *layers), torch.randn(shape)
    unit_map = discover_units(model, x, residual="group")
    assert not {group.name for group in unit_map} & declined
    assert {skip.layer for skip in unit_map.skipped} >= declined
    assert not verify_units(model, x, unit_map).failed


@pytest.mark.parametrize("name", RIGHT)
def test_what_vanishes_with_the_unit_or_is_constant_does_no_harm(name) -> None:
    forward, layers, shape, found = RIGHT[name]
    model, x = Net(forward, *layers), torch.randn(shape)
    unit_map = discover_units(model, x, residual="group")
    assert {group.name for group in unit_map} == found
    proofs = verify_units(model, x, unit_map)
    assert not proofs.failed, proofs.summary()


@pytest.mark.parametrize("name", GATED)
def test_what_scales_one_unit_alone_belongs_to_it(name) -> None:
    forward, layers, writers = GATED[name]
    model, x = Net(forward, *layers), torch.randn(X)
    unit_map = discover_units(model, x)
    group = unit_map["a"]
    assert {slot.path[0] for slot in group.incoming + group.norms} == set(writers)
    proofs = verify_units(model, x, unit_map)
    assert not proofs.failed, proofs.summary()
