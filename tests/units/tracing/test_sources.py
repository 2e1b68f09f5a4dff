"""A view of a parameter is recognised by its memory, and its rows have the same labels wherever they are used."""

from __future__ import annotations

import torch
from torch import nn

from lightning_plasticity.units.naming import module_names
from lightning_plasticity.units.tracing.labels import Labels
from lightning_plasticity.units.tracing.source import orientation
from lightning_plasticity.units.tracing.sources import Sources


def sources_of(model: nn.Module) -> Sources:
    return Sources(model, Labels(), module_names(model))


def test_views_of_a_parameter_are_found_and_copies_are_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    sources = sources_of(model)
    weight = model[0].weight
    assert {sources.find(view).path for view in (weight, weight.t(), weight[1:], weight.reshape(2, 6))} == {"0.weight"}
    assert sources.find(weight.clone()) is None
    assert sources.find(model[1].running_mean).path == "1.running_mean"
    assert not sources.find(model[1].running_mean).is_parameter


def test_parameters_in_one_memory_are_told_apart_by_their_place():
    flat = torch.zeros(10)
    model = nn.Module()
    model.a, model.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])
    sources = sources_of(model)
    assert [sources.find(t).path for t in (model.a, model.b, model.b[2:])] == ["a", "b", "b"]


def test_the_same_row_has_the_same_label_in_every_view():
    model = nn.Linear(3, 4)
    sources, weight = sources_of(model), model.weight
    (source,) = (source for source in sources.all if source.path == "weight")
    whole = sources.row_labels(source, weight, [0], frozenset({1}))
    part = sources.row_labels(source, weight[1:3].t(), [1], frozenset({1}))
    assert whole.shape == (4, 1)
    assert part.shape == (1, 2)
    assert part.flatten().tolist() == whole.flatten()[1:3].tolist()


def test_rows_in_the_other_orientation_are_other_units():
    model = nn.Linear(3, 3)
    sources, weight = sources_of(model), model.weight
    (source,) = (source for source in sources.all if source.path == "weight")
    rows = sources.row_labels(source, weight, [0], orientation(source, weight, [1]))
    columns = sources.row_labels(source, weight.t(), [0], orientation(source, weight.t(), [1]))
    assert orientation(source, weight, [1]) != orientation(source, weight.t(), [1])
    assert not set(rows.flatten().tolist()) & set(columns.flatten().tolist())


def test_labels_of_a_view_are_translated_to_the_tensor_itself():
    model = nn.Linear(3, 4)
    sources, weight = sources_of(model), model.weight
    source = sources.find(weight)
    assert source.own_shape(weight.t(), torch.arange(4)[None]).tolist() == [[0], [1], [2], [3]]
    part = source.own_shape(weight[2:], torch.tensor([[7], [8]]))
    assert part.tolist() == [[0], [0], [7], [8]]
    assert part.untyped_storage().nbytes() == part.nbytes, "the memory of labels of all entries is held"


def test_both_parts_of_a_complex_number_belong_to_one_unit():
    model = nn.Module()
    model.pairs = nn.Parameter(torch.randn(3, 2))
    sources = sources_of(model)
    whole = sources.soft_labels(torch.view_as_complex(model.pairs.detach()))
    assert torch.equal(sources.labels.find(sources.soft_labels(model.pairs)), whole[:, None].expand(3, 2))


def test_a_parameter_that_is_read_as_numbers_of_another_type_has_a_fault():
    model = nn.Module()
    model.packed = nn.Parameter(torch.randn(4, 4))
    source = sources_of(model).all[0]
    source.own_type(model.packed.detach().view(torch.int32))
    assert source.problem == "is read as another type"
