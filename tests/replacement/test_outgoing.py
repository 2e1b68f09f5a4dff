"""The mean absolute outgoing weights that the engine writes after every step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_plasticity.functional.utility import CACHED
from lightning_plasticity.replacement import Field, Memory
from lightning_plasticity.replacement.outgoing import OutgoingMagnitudes
from lightning_plasticity.units import discover_units

FIELD = {"outgoing": Field(per="feature", lasts="step", holds="outgoing magnitude")}


def mlp(width=6, outputs=3, dtype=torch.float64):
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, outputs, bias=False)
    ).to(dtype)


def watched(model, example):
    memory = Memory(discover_units(model, example).groups, FIELD)
    return memory, OutgoingMagnitudes(memory, "outgoing")


def write(outgoing, groups):
    with torch.no_grad():
        outgoing.write(groups)


def loop_over_units(weight, features=1):
    columns = [float(weight[:, i].detach().double().abs().mean()) for i in range(weight.shape[1])]
    return torch.tensor(columns, dtype=torch.float64).view(-1, features)


def test_magnitudes_are_those_of_a_loop_over_units_also_after_the_weights_moved():
    model = mlp()
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=torch.float64))
    for _ in range(3):  # the first time finds the short way, the others take it
        for reader, part in zip((model[2], model[4]), memory.parts, strict=True):
            with torch.no_grad():
                reader.weight.add_(torch.randn_like(reader.weight))
            write(outgoing, [0, 1])
            torch.testing.assert_close(part["outgoing"], loop_over_units(reader.weight), rtol=1e-14, atol=0)


def test_a_matrix_too_large_for_the_cache_gives_the_same():
    width = 512
    outputs = CACHED // width + 3  # a last piece of a few rows
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, outputs))
    memory, outgoing = watched(model, torch.randn(2, 4))
    for _ in range(2):
        write(outgoing, [0])
        torch.testing.assert_close(memory.parts[0]["outgoing"].double(), loop_over_units(model[2].weight))


def test_groups_that_are_not_asked_for_keep_what_they_had():
    model = mlp()
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=torch.float64))
    write(outgoing, [1])
    assert memory.parts[0]["outgoing"].count_nonzero() == 0
    torch.testing.assert_close(memory.parts[1]["outgoing"], loop_over_units(model[4].weight))


def test_a_parameter_put_in_the_place_of_the_old_one_is_read_even_if_a_head_has_grown():
    model = mlp()
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=torch.float64))
    write(outgoing, [0, 1])
    for outputs in (3, 7, 2):
        model[4].weight = nn.Parameter(torch.randn(outputs, 5, dtype=torch.float64))
        for _ in range(2):
            write(outgoing, [0, 1])
            torch.testing.assert_close(memory.parts[1]["outgoing"], loop_over_units(model[4].weight))


def test_data_assigned_to_a_parameter_is_read():
    model = mlp()
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=torch.float64))
    write(outgoing, [0, 1])
    model[4].weight.data = torch.ones(3, 5, dtype=torch.float64)
    write(outgoing, [0, 1])
    assert memory.parts[1]["outgoing"].unique().tolist() == [1.0]


def test_features_of_a_unit_are_kept_apart_after_a_flatten():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    memory, outgoing = watched(model, torch.randn(2, 1, 4, 4, dtype=torch.float64))
    write(outgoing, [0])
    torch.testing.assert_close(memory.parts[0]["outgoing"], loop_over_units(model[3].weight, 4))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("reader", [nn.Conv1d, nn.ConvTranspose1d])
def test_all_rows_of_a_group_that_read_a_channel_count(reader, groups):
    length = 5 if reader is nn.Conv1d else 9
    layers = (nn.Conv1d(1, 4, 3), nn.ReLU(), reader(4, 8, 3, groups=groups), nn.Flatten(), nn.Linear(8 * length, 2))
    model = nn.Sequential(*layers).double()
    memory, outgoing = watched(model, torch.randn(2, 1, 9, dtype=torch.float64))
    weight, per_group = model[2].weight.detach().abs(), 4 // groups
    read = [weight[i] if reader is nn.ConvTranspose1d else rows(weight, i, per_group) for i in range(4)]
    for _ in range(2):
        write(outgoing, [0])
        torch.testing.assert_close(memory.parts[0]["outgoing"], torch.stack([each.mean() for each in read])[:, None])


def rows(weight, channel, per_group):
    """Return the entries of a grouped convolution of 8 rows that read ``channel``."""
    group, column = divmod(channel, per_group)
    return weight.unflatten(0, (4 // per_group, -1))[group, :, column]


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.writer, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.writer(x).relu()
        return torch.cat([self.first(hidden), self.second(hidden)], -1)


def test_several_readers_count_by_their_entries():
    model = TwoReaders().double()
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=torch.float64))
    for _ in range(2):
        write(outgoing, [0])
        both = torch.cat([model.first.weight, model.second.weight])
        torch.testing.assert_close(memory.parts[0]["outgoing"], loop_over_units(both))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_low_precision_are_added_up_in_single_precision(dtype):
    model = mlp(width=3000, dtype=dtype)
    memory, outgoing = watched(model, torch.randn(2, 4, dtype=dtype))
    for _ in range(2):
        write(outgoing, [0, 1])
        assert memory.parts[0]["outgoing"].dtype == torch.float32
        torch.testing.assert_close(memory.parts[0]["outgoing"].double(), loop_over_units(model[2].weight))
