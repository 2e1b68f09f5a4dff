"""Measures of weights against values derived by hand or by a decomposition."""

import pytest
import torch
from torch import nn

from lightning_plasticity import functional
from lightning_plasticity.errors import InvalidArgumentError

MATRIX = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
VECTOR = torch.tensor([-12.0])


def test_several_tensors_count_as_one_vector():
    assert functional.weight_magnitude([MATRIX, VECTOR]) == pytest.approx(19 / 5)
    assert functional.weight_norm([MATRIX, VECTOR]) == pytest.approx(13)
    assert functional.gradient_norm(iter([MATRIX, VECTOR])) == pytest.approx(13)
    assert functional.zero_gradient_share([MATRIX, VECTOR]) == pytest.approx(0.4)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (4, 3, 3, 3), (6,)])
@pytest.mark.parametrize("scale", [1e-30, 1.0])
def test_spectral_norm_and_rank_are_those_of_a_decomposition(shape, scale):
    weight = scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = weight.reshape(shape[0], -1)
    assert functional.spectral_norm([weight, weight / 2]) == pytest.approx(float(torch.linalg.svdvals(matrix)[0]))
    assert functional.weight_effective_rank(weight) == functional.effective_rank(matrix)


def test_distance_and_update_compare_with_other_weights():
    moved = [MATRIX + torch.tensor([[0.0, 3.0], [4.0, 0.0]]), VECTOR - 12]
    assert functional.distance_from_initialization(moved, [MATRIX, VECTOR]) == pytest.approx(13)
    assert functional.update_ratio(moved, [MATRIX, VECTOR]) == pytest.approx(1)
    assert functional.update_ratio(MATRIX, MATRIX) == pytest.approx(0)
    assert functional.update_ratio(MATRIX, torch.zeros(2, 2)) == torch.inf


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_optimizer_state_is_summed_up_by_kind(kind):
    layer = nn.Linear(3, 2)
    optimizer = kind(layer.parameters())
    assert functional.optimizer_state_norms(optimizer) == {}
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    norms = functional.optimizer_state_norms(optimizer, [layer.weight])
    assert "step" not in norms
    for name, norm in norms.items():
        assert norm == pytest.approx(float(optimizer.state[layer.weight][name].norm()))
    assert functional.optimizer_state_norms(optimizer).keys() == norms.keys() != set()


@pytest.mark.parametrize("measure", ["weight_norm", "spectral_norm", "gradient_norm"])
def test_norms_of_nothing_are_zero(measure):
    assert getattr(functional, measure)([]) == 0


@pytest.mark.parametrize("measure", ["weight_magnitude", "weight_effective_rank", "zero_gradient_share"])
def test_means_of_nothing_are_nan(measure):
    assert getattr(functional, measure)([]).isnan()


@pytest.mark.parametrize("measure", ["weight_magnitude", "weight_norm", "spectral_norm", "weight_effective_rank"])
def test_nan_stays_nan(measure):
    function = getattr(functional, measure)
    assert function(torch.zeros(2, 2)) == 0
    assert function(torch.tensor([[1.0, torch.nan]])).isnan()
    assert functional.zero_gradient_share(torch.tensor([0.0, torch.nan])).isnan()


def test_weights_of_other_shapes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"weights of shapes \[\[2, 2\]\].*\[\[1\]\].*same order"):
        functional.update_ratio(MATRIX, VECTOR)


def test_a_module_stands_for_its_parameters():
    module = nn.Linear(3, 2)
    assert functional.weight_magnitude(module) == functional.weight_magnitude(list(module.parameters()))


def test_what_is_no_weight_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"Found: weights of type str\. Expected: a tensor, .*Remedy: Pass"):
        functional.weight_magnitude({"weight": torch.ones(2)})
