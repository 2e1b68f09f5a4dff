"""What happens to a unit when it is replaced."""

from __future__ import annotations

import pytest
import torch
from support.small_nets import apply, groups_of, mlp
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.replacement import CloneBest, RedrawIncoming, ResetNorms, RewindIncoming, ZeroOutgoing

EDITS = [
    RedrawIncoming(),
    RedrawIncoming("kaiming_normal"),
    RewindIncoming(),
    CloneBest(),
    ZeroOutgoing(),
    ResetNorms(),
]


def convnet(bias=True):
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 2, bias=bias),
    ).double()


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
@pytest.mark.parametrize("bias", [True, False])
def test_an_edit_of_no_unit_changes_nothing_and_one_of_a_unit_leaves_the_others_alone(edit, bias):
    torch.manual_seed(0)
    model = convnet(bias)
    first, second = groups_of(model, 4, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(edit, first, [])
    apply(edit, second, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    held = edit.prepare(first)
    apply(edit, first, [3], held=held)
    others = torch.tensor([i for i in range(8) if i != 3])
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        if name in before:
            assert torch.equal(model.state_dict()[name][others], before[name][others])
    assert torch.equal(model[3].weight[:, others], before["3.weight"][:, others])
    assert torch.equal(model[6].weight, before["6.weight"])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_unit_recovers_since_values_are_assigned_not_multiplied(broken):
    torch.manual_seed(0)
    model = convnet()
    first, second = groups_of(model, 4, 6, 6)
    edits = (RedrawIncoming(), ZeroOutgoing(), ResetNorms())
    held = [edit.prepare(first) for edit in edits]
    with torch.no_grad():
        for slot in first.slots:
            slot.assign(torch.tensor([5]), broken)
    assert not model(torch.randn(2, 4, 6, 6, dtype=torch.float64)).isfinite().all()
    for edit, own in zip(edits, held, strict=True):
        apply(edit, first, [5], held=own)
    assert model.eval()(torch.randn(2, 4, 6, 6, dtype=torch.float64)).isfinite().all()
    assert all(slot.tensor.isfinite().all() for slot in (*first.slots, *second.slots))


def test_redrawn_weights_of_a_grouped_convolution_stay_within_the_bound_of_its_own_fan_in():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3, groups=4), nn.ReLU(), nn.Conv2d(64, 2, 3))
    (group,) = groups_of(model, 8, 6, 6)
    apply(RedrawIncoming(), group, list(range(64)))
    bound = 1 / (8 / 4 * 9) ** 0.5
    assert 0.97 * bound < model[0].weight.abs().max().item() <= bound * (1 + 1e-6)
    assert model[0].bias.eq(0).all()


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"])
def test_a_named_initialiser_is_that_of_torch_nn_init_for_linear_layers_and_convolutions(name, kind):
    torch.manual_seed(0)
    if kind == "linear":
        model, shape = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 2)), (50,)
    else:
        model, shape = nn.Sequential(nn.Conv2d(5, 400, 3), nn.ReLU(), nn.Conv2d(400, 2, 1)), (5, 4, 4)
    (group,) = groups_of(model, *shape)
    gain = 2**0.5 if name.startswith("kaiming") else 1.0
    apply(RedrawIncoming(name, gain=gain), group, list(range(400)))
    expected = getattr(nn.init, f"{name}_")(torch.empty_like(model[0].weight), **_relu(name))
    assert model[0].weight.std().item() == pytest.approx(expected.std().item(), rel=0.03)
    if name.endswith("uniform"):
        assert model[0].weight.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.01)


def _relu(name):
    return {"nonlinearity": "relu"} if name.startswith("kaiming") else {}


def test_rewinding_returns_the_first_incoming_weights_and_biases_bit_for_bit():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    (group,) = groups_of(model, 4)
    edit, first = RewindIncoming(), {k: v.clone() for k, v in model.state_dict().items()}
    held = edit.prepare(group)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    apply(edit, group, [1, 4], held=held)
    for name in ("0.weight", "0.bias"):
        assert torch.equal(model.state_dict()[name][[1, 4]], first[name][[1, 4]])
        assert torch.equal(model.state_dict()[name][[0, 2, 3, 5]], first[name][[0, 2, 3, 5]] + 1.0)


def test_clones_are_perturbed_copies_of_the_best_unit_that_stays():
    torch.manual_seed(0)
    model = mlp(4, 6, 2)
    (group,) = groups_of(model, 4)
    best = model[0].weight[2].clone()
    score = torch.tensor([0.0, 9.0, 5.0, float("inf"), 1.0, float("nan")], dtype=torch.float64)
    apply(CloneBest(noise_std=0.0), group, [1, 4], score=score)  # unit 1 is the best, but goes; 3 and 5 are broken
    assert torch.equal(model[0].weight[[1, 4]], torch.stack([best, best]))
    apply(CloneBest(noise_std=0.1), group, [1, 4], score=score)
    difference = (model[0].weight[[1, 4]] - best).square().mean().sqrt() / best.square().mean().sqrt()
    assert 0.02 < difference.item() < 0.3
    assert not torch.equal(model[0].weight[1], model[0].weight[4])


def test_cloning_when_every_unit_goes_leaves_finite_weights():
    model = mlp(4, 3, 2)
    (group,) = groups_of(model, 4)
    apply(CloneBest(), group, [0, 1, 2])
    assert model[0].weight.isfinite().all()


def test_norms_of_replaced_units_start_afresh():
    model = convnet()
    (group, _) = groups_of(model, 4, 6, 6)
    with torch.no_grad():
        for slot in group.norms:
            slot.assign(torch.arange(8), 7.0)
    apply(ResetNorms(), group, [0, 6])
    norm, units = model[1], [0, 6]
    assert [norm.weight[units].tolist(), norm.bias[units].tolist()] == [[1, 1], [0, 0]]
    assert [norm.running_mean[units].tolist(), norm.running_var[units].tolist()] == [[0, 0], [1, 1]]
    assert (norm.weight[1:6] == 7).all()


def test_a_negative_perturbation_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"noise_std=-0.1"):
        CloneBest(noise_std=-0.1)
