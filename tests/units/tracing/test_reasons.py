"""Every layer that is left alone has a reason, and, where there is one, a remedy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import make

from lightning_plasticity.units import discover_units, verify_units


def said(name: str, layer: str) -> tuple[str, str]:
    """Return the reason and the remedy for a layer of a model of the zoo."""
    (skip,) = (skip for skip in discover_units(*make(name)).skipped if skip.layer == layer)
    return skip.reason, skip.remedy


CASES = [
    ("mlp", "4", "it reaches the output of the model", ""),
    ("residual", "stem.0", "residual stream", "residual='group'"),
    (
        "lstm",
        "cell",
        "it is recurrent (LSTM): its units feed themselves, which no law covers",
        "Nothing needs to be done",
    ),
    ("gru", "cell", "it is recurrent (GRU)", "Nothing needs to be done"),
    ("recurrent_cells", "layer.0", "it is recurrent (GRUCell)", "Nothing needs to be done"),
    ("recurrent_cells", "layer.1", "it is recurrent (LSTMCell)", "Nothing needs to be done"),
    ("recurrence_by_hand", "step", "it is recurrent", ""),
    ("tied_embedding", "embed", "its weight is tied: its rows are columns in another place", "a weight of its own"),
    ("autoencoder_with_tied_weights", "encoder", "is tied", "a weight of its own"),
    ("frozen_part", "0", "its weight is frozen (requires_grad=False)", "else set requires_grad=True on it"),
    ("leaves_torch", "2", "its values leave torch", "Keep the computation in PyTorch"),
    ("branch_on_the_data", "narrow", "met no activation on the example", "Pass an example that uses it"),
    ("branch_on_the_data", "wide", "branches on its data, and narrow, which did not run", "examples of all kinds"),
]


@pytest.mark.parametrize(("name", "layer", "reason", "remedy"), CASES)
def test_the_reason_says_what_is_wrong_and_the_remedy_what_would_help(name, layer, reason, remedy):
    why, help_ = said(name, layer)
    assert reason in why
    assert remedy in help_
    assert bool(remedy) == bool(help_)


def test_a_part_of_a_layer_is_counted():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = nn.Linear(4, 6), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden, out = self.both(x).split([4, 2], dim=-1)
            return self.head(hidden), out

    units = discover_units(Model(), torch.randn(3, 4))
    assert units["both"].size == 4
    assert "2 of 6 units: it reaches the output of the model" in {skip.reason for skip in units.skipped}


class Chain(nn.Module):
    """Two hidden layers and a head; ``between`` acts on the first, ``weights`` on what the second multiplies with."""

    def __init__(self, between=torch.relu, weights=lambda weight, training: weight) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)
        self.between, self.weights = between, weights

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.between(self.a(x))
        return self.c(F.linear(hidden, self.weights(self.b.weight, self.training), self.b.bias).relu())


def frozen_reader() -> nn.Module:
    model = Chain()
    model.b.requires_grad_(False)
    return model


OF_CHAINS = {
    "softmax": (Chain(lambda x: x.softmax(-1)), "a", "made of several units at once (softmax)", ""),
    "frozen_reader": (frozen_reader(), "a", "b.weight reads it and is frozen", "on the weight that reads it"),
    "frozen_writer": (frozen_reader(), "b", "its weight is frozen", "else set requires_grad=True on it"),
    "a_copy_by_strides": (
        Chain(lambda x: torch.as_strided_copy(x, x.shape, x.stride())), "a", "'as_strided_copy' has no rule", "Replace",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_CHAINS)
def test_the_true_reason_is_said_and_a_remedy_that_works(name):
    model, layer, reason, remedy = OF_CHAINS[name]
    (skip,) = [skip for skip in discover_units(model, torch.randn(8, 5)).skipped if skip.layer == layer]
    assert reason in skip.reason
    assert remedy in skip.remedy
    assert bool(remedy) == bool(skip.remedy)


@pytest.mark.parametrize("view", [
    lambda x: x.as_strided(x.shape, x.stride()),
    lambda x: x.as_strided((8, 3, 2), (6, 2, 1)).flatten(1),
    lambda x: x.as_strided((7, 6), (6, 1), 3),
])  # fmt: skip
def test_a_strided_view_is_followed_by_memory(view):
    model, x = Chain(view), torch.randn(8, 5)
    unit_map = discover_units(model, x)
    assert {"a", "b"} == {group.name for group in unit_map}
    assert all(proof.proven for proof in verify_units(model, x, unit_map))


def test_a_strided_view_that_tears_units_apart_is_refused():
    model = Chain(lambda x: x.as_strided((8, 6), (1, 8)))
    assert [group.name for group in discover_units(model, torch.randn(8, 5))] == ["b"]


def test_the_kernel_of_a_channel_belongs_to_it_also_with_weight_norm():
    depthwise = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, 3, groups=6))
    model, x = nn.Sequential(nn.Conv1d(3, 6, 1), depthwise, nn.ReLU(), nn.Conv1d(6, 2, 1)), torch.randn(4, 3, 8)
    unit_map = discover_units(model, x)
    kernel = {f"1.parametrizations.weight.original{i}" for i in (0, 1)}
    assert {slot.path for slot in unit_map["0"].norms} == kernel
    assert verify_units(model, x, unit_map)["0"].proven


class Exits(nn.Module):
    """A convolution of 4 channels, read by another; an early exit that is not taken on the example reads them too."""

    def __init__(self, exit_, read) -> None:
        super().__init__()
        self.first, self.last, self.exit, self.read = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), exit_, read

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.exit(self.read(x, hidden)) if x.sum() < -1e4 else self.last(hidden)


EXITS = {
    "as wide": (nn.Conv2d(4, 2, 1), lambda x, h: h),
    "flattened": (nn.Linear(64, 5), lambda x, h: h.flatten(1)),
    "concatenated": (nn.Conv2d(7, 2, 1), lambda x, h: torch.cat([x[..., 1:5, 1:5], h], 1)),
    "recurrent": (nn.LSTM(4, 2), lambda x, h: h.flatten(2).transpose(1, 2)),
    "in groups": (nn.Conv2d(4, 2, 1, groups=2), lambda x, h: h),
    "transposed": (nn.ConvTranspose2d(7, 1, 1), lambda x, h: torch.cat([x[..., 1:5, 1:5], h], 1)),
    "adds to them": (nn.Conv2d(3, 4, 3), lambda x, h: x),
    "adds a part to them": (nn.Conv2d(3, 12, 3), lambda x, h: x),
    "embedding": (nn.Embedding(100, 4), lambda x, h: x.long()),
}


@pytest.mark.parametrize("name", EXITS)
def test_a_layer_that_did_not_run_may_read_units_among_others(name):
    units = discover_units(Exits(*EXITS[name]), torch.randn(2, 3, 6, 6))
    assert len(units) == 0
    (skip,) = (skip for skip in units.skipped if skip.layer == "first")
    assert "the model branches on its data, and exit, which did not run on the example" in skip.reason


def test_a_unit_that_the_example_reads_flattened_may_be_read_by_its_channel_elsewhere():
    model = Exits(nn.Conv2d(4, 2, 1), lambda x, h: h)
    model.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    assert len(discover_units(model, torch.randn(2, 3, 6, 6))) == 0


@pytest.mark.parametrize("exit_", [nn.Conv2d(3, 2, 3), nn.Linear(3, 5), nn.Embedding(100, 2)])
def test_a_layer_that_is_too_narrow_for_the_units_cannot_use_them(exit_):
    model = Exits(exit_, lambda x, h: x)
    assert [group.name for group in discover_units(model, torch.randn(2, 3, 6, 6))] == ["first"]


def test_a_recurrent_layer_that_ran_is_no_layer_that_did_not_run():
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cell, self.last = nn.Linear(3, 4), nn.LSTM(4, 5, num_layers=2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.cell(self.first(x))[0]) if x.sum() > -1e4 else x

    assert [group.name for group in discover_units(Decides(), torch.randn(6, 2, 3))] == ["first"]
