"""How a layer drew its weights."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_nets import groups_of
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement import RedrawIncoming
from lightning_plasticity.replacement.initializers import Family, detect_distribution, distribution_of, draw

SQRT2 = math.sqrt(2)


def fans(weight):
    return nn.init._calculate_fan_in_and_fan_out(weight)


def lecun_normal_(weight):
    return nn.init.normal_(weight, std=1 / math.sqrt(fans(weight)[0]))


def lecun_uniform_(weight):
    bound = math.sqrt(3 / fans(weight)[0])
    return nn.init.uniform_(weight, -bound, bound)


INITIALIZERS = {
    "default": (lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), 1.0),
    "kaiming_uniform": (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), SQRT2),
    "kaiming_normal": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), SQRT2),
    "lecun_uniform": (lecun_uniform_, 1.0),
    "lecun_normal": (lecun_normal_, 1.0),
    "xavier_uniform": (nn.init.xavier_uniform_, 1.0),
    "xavier_normal": (nn.init.xavier_normal_, 1.0),
}
LAYERS = {
    "linear": lambda: nn.Linear(40, 60),
    "wide": lambda: nn.Linear(300, 7),
    "conv": lambda: nn.Conv2d(12, 20, 3),
    "grouped": lambda: nn.Conv2d(12, 24, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(12, 20, 3),
    "conv1d": lambda: nn.Conv1d(9, 30, 5),
}


def rows_of(layer):
    weight = layer.weight.detach()
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_distribution_a_layer_was_drawn_from_is_found(name, layer, seed):
    torch.manual_seed(seed)
    module = LAYERS[layer]()
    fill, gain = INITIALIZERS[name]
    fill(module.weight)
    found = detect_distribution(rows_of(module), *fans(module.weight))
    # Uniform distributions are told apart by their bounds, normal ones by a deviation that is only known so well.
    tolerance = 4 / math.sqrt(2 * module.weight.numel()) if name.endswith("normal") else 1e-12
    torch.testing.assert_close(found, distribution_of(name, *fans(module.weight), gain), rtol=tolerance, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_as_pytorch_builds_it_is_recognised(layer):
    torch.manual_seed(1)
    module = LAYERS[layer]()
    found = detect_distribution(rows_of(module), *fans(module.weight))
    torch.testing.assert_close(found, distribution_of("default", *fans(module.weight), 1.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(2, 3), (4, 2), (3, 8), (8, 1)])
def test_a_handful_of_weights_is_nearly_always_recognised_as_pytorchs_default(shape):
    torch.manual_seed(0)
    expected, hits = distribution_of("default", shape[1], shape[0], 1.0), 0
    for _ in range(200):
        layer = nn.Linear(shape[1], shape[0])
        hits += bool(torch.allclose(detect_distribution(layer.weight, *fans(layer.weight)), expected))
    assert hits >= 180


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rounded_weights_are_recognised(dtype):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).to(dtype)
    family, bound, _ = detect_distribution(layer.weight, 64, 32).tolist()
    assert (Family(int(family)), bound) == (Family.UNIFORM, 0.125)


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (16, 16), (6, 2, 3, 3)])
def test_orthogonal_rows_and_columns_are_drawn_from_a_sphere_with_the_rows_mean_length(shape):
    weight = nn.init.orthogonal_(torch.empty(shape), gain=1.5)
    rows = weight.flatten(1)
    family, radius, _ = detect_distribution(weight, *fans(weight)).tolist()
    assert Family(int(family)) is Family.SPHERE
    assert radius == pytest.approx(rows.square().sum(1).mean().sqrt().item(), rel=1e-3)


def test_any_other_distribution_is_taken_as_measured():
    torch.manual_seed(0)
    for weight, family, scale, location in [
        (torch.randn(200, 100) * 0.37, Family.NORMAL, 0.37, 0.0),
        ((torch.rand(200, 100) * 2 - 1) * 0.37, Family.UNIFORM, 0.37, 0.0),
        (torch.rand(200, 100), Family.UNIFORM, 0.5, 0.5),
        (torch.randn(200, 100) * 0.1 + 1.0, Family.NORMAL, 0.1, 1.0),
    ]:
        found = detect_distribution(weight, 100, 200).tolist()
        assert Family(int(found[0])) is family
        assert found[1:] == pytest.approx([scale, location], abs=0.01)


def test_a_constant_stays_a_constant_and_nothing_finite_means_the_default():
    assert detect_distribution(torch.full((4, 1), 0.25), 1, 4).tolist() == [0.0, 0.0, 0.25]
    broken = detect_distribution(torch.full((4, 2), float("nan")), 2, 4)
    torch.testing.assert_close(broken, distribution_of("default", 2, 4, 1.0))


@pytest.mark.parametrize("name", [*INITIALIZERS, "orthogonal"])
def test_a_draw_has_the_deviation_of_its_distribution(name):
    distribution = distribution_of(name, 30, 50, SQRT2)
    values = draw(distribution, (400, 30), torch.Generator().manual_seed(0))
    family, scale, _ = distribution.tolist()
    if Family(int(family)) is Family.SPHERE:
        torch.testing.assert_close(values.norm(dim=1), torch.full((400,), SQRT2, dtype=torch.float64))
        return
    std = scale / math.sqrt(3) if Family(int(family)) is Family.UNIFORM else scale
    assert values.std().item() == pytest.approx(std, rel=0.03)
    assert values.mean().item() == pytest.approx(0.0, abs=4 * std / math.sqrt(values.numel()))


def test_a_draw_around_another_location_keeps_it():
    for family in (Family.UNIFORM, Family.NORMAL):
        distribution = torch.tensor([float(family), 0.1, 3.0], dtype=torch.float64)
        assert draw(distribution, (1000,), torch.Generator().manual_seed(0)).mean().item() == pytest.approx(
            3.0, abs=0.02
        )


def test_weights_that_were_all_equal_are_drawn_from_the_default_since_equal_units_never_come_apart():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    nn.init.zeros_(model[0].weight)
    (group,) = groups_of(model, 4)
    (held,) = RedrawIncoming().prepare(group).values()
    torch.testing.assert_close(held, distribution_of("default", 4, 6, 1.0))


@pytest.mark.parametrize("make", [lambda: RedrawIncoming("he"), lambda: distribution_of("he", 1, 1, 1.0)])
def test_an_unknown_initialiser_is_refused_and_not_taken_for_kaiming(make):
    with pytest.raises(InvalidArgumentError, match=r"initializer='he'.*'default', 'kaiming_uniform'.*Choose one"):
        make()


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gain_that_is_not_positive_is_refused(gain):
    with pytest.raises(InvalidArgumentError, match="gain="):
        RedrawIncoming("kaiming_uniform", gain=gain)
