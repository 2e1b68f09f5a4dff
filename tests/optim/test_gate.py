import io
from itertools import pairwise

import numpy
import pytest
import torch
from torch import nn

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    UnsupportedModelError,
    UnsupportedOptimizerError,
)
from lightning_plasticity.methods import continual_backprop
from lightning_plasticity.optim import UPGD, AdaUPGD, HesScale, UtilityGate
from lightning_plasticity.optim.noise import NoiseSource
from lightning_plasticity.optim.regularization import Decay
from lightning_plasticity.optim.shrink_perturb import ShrinkPerturb
from lightning_plasticity.replacement import UnitReplacer
from lightning_plasticity.units import Slot, UnitGroup, discover_units


def mlp(sizes=(5, 8, 6, 3), seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).to(dtype)


def conv(dtype=torch.float64, norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=not norm), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 5)).to(dtype)


def data(steps=20, seed=1, dtype=torch.float64, shape=(5,)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(steps)]


def train(model, optimizer, batches):
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def equal(model, other):
    return all(p.equal(q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


SETTINGS = [
    {},
    {"scaling": "local", "protecting": False},
    {"scaling": "abs", "correction": "reference", "gate_scale": 2.0},
    {"scaling": "none"},
    {"noise_std": 0.0},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_in_front_of_gradient_descent_it_is_upgd_to_the_bit(settings, dtype):
    settings = {"noise_std": 0.1, "decay_rate": 0.9, "seed": 3} | settings
    model, twin = mlp(dtype=dtype), mlp(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with UtilityGate(optimizer, **settings):
        train(model, optimizer, data(dtype=dtype))
    train(twin, UPGD(twin.parameters(), lr=0.1, **settings), data(dtype=dtype))
    assert equal(model, twin)
    plain = mlp(dtype=dtype)
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), data(dtype=dtype))
    assert not equal(model, plain)


def test_weight_decay_of_gradient_descent_is_that_of_upgd():
    model, twin = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with UtilityGate(optimizer, seed=3):
        train(model, optimizer, data())
    train(twin, UPGD(twin.parameters(), lr=0.1, weight_decay=0.1, seed=3), data())
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


def test_perturbed_gradient_descent_adds_the_noise_and_nothing_else():
    model, twin, source = mlp(), mlp(), NoiseSource(seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with UtilityGate(optimizer, noise_std=0.2, scaling="none", seed=3):
        train(model, optimizer, data())
    for x in data():
        twin.zero_grad()
        twin(x).square().mean().backward()
        with torch.no_grad():
            for p in twin.parameters():
                p -= 0.1 * (p.grad + source.draw(p, 0.2))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("protecting", [True, False])
@pytest.mark.parametrize("correction", ["paper", "reference"])
@pytest.mark.parametrize("scaling", ["global", "local", "abs"])
def test_units_are_gated_as_by_gate_parameters_behind_them(scaling, correction, protecting, order, oracle):
    """A hundred steps against a network with explicit gates of one, whose slopes and bends autograd takes."""
    model, twin, source = mlp((3, 4, 3, 2)), mlp((3, 4, 3, 2)), NoiseSource(seed=3)
    units, optimizer = discover_units(model, data()[0][:, :3]), torch.optim.SGD(model.parameters(), lr=0.05)
    bends = _UnitBends(twin) if order == 2 else None
    gate = UtilityGate(
        optimizer, noise_std=0.2, decay_rate=0.9, scaling=scaling, correction=correction, protecting=protecting,
        units=units, curvature=bends, seed=3,
    ).attach()  # fmt: skip
    batches = [x[:, :3] for x in data(100)]
    utilities = [torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)]
    for t, x in enumerate(batches, start=1):
        if bends is not None:
            bends.measure(model, x)
        train(model, optimizer, [x])
        _reference_unit_step(twin, x, t, utilities, source, bends, scaling, correction, protecting)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    assert set(gate.scaled_utilities()) == {"0", "2"}


class _UnitBends:
    """A made-up second derivative of the loss by every pre-activation, and what follows from it for the weights."""

    def __init__(self, model):
        self.model, self.values = model, {}

    def measure(self, model, x):
        h = x
        for i, layer in enumerate(model):
            if i in (2, 4):
                self.values[layer.weight] = torch.full((len(x), layer.out_features), 0.1 * i).double().T @ h.square()
            h = layer(h).detach()

    def take(self, parameter):
        return self.values[parameter]

    def of_units(self, layer, i, h):
        return h.square() * (torch.full((len(h), layer.out_features), 0.1 * i).double() @ layer.weight.square())


def _reference_unit_step(model, x, t, utilities, source, bends, scaling, correction, protecting):
    gates = [
        torch.ones(4, dtype=torch.float64, requires_grad=True),
        torch.ones(3, dtype=torch.float64, requires_grad=True),
    ]
    model.zero_grad()
    first = model[1](model[0](x))
    second = model[3](model[2](first * gates[0]))
    model[4](second * gates[1]).square().mean().backward()
    with torch.no_grad():
        for k, (h, layer, i) in enumerate(((first, model[2], 2), (second, model[4], 4))):
            now = -gates[k].grad
            if bends is not None:
                now = now + 0.5 * bends.of_units(layer, i, h).sum(0)
            utilities[k] = 0.9 * utilities[k] + 0.1 * now
        corrected = [u / (1 - 0.9**t) for u in utilities]
        shown = corrected if correction == "paper" else utilities
        top = torch.cat(shown)
        top = (top.abs() if scaling == "abs" else top).max().clamp_min(2.2250738585072014e-308)
        for k, layer in enumerate((model[0], model[2])):
            scale = corrected[k].norm() if scaling == "local" else top
            closed = 1 - torch.sigmoid(corrected[k] / scale)
            for p, gate in ((layer.weight, closed[:, None]), (layer.bias, closed)):
                noise = source.draw(p, 0.2)
                p.grad.copy_((p.grad + noise) * gate if protecting else p.grad + noise * gate)
        for p in model.parameters():
            p -= 0.05 * p.grad


def test_channels_biases_and_norms_of_a_unit_are_gated_together_and_readers_pass():
    model = conv()
    units = discover_units(model, data(shape=(1, 6, 6))[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gate = UtilityGate(optimizer, noise_std=0.0, units=units)
    model(data(shape=(1, 6, 6))[0]).square().mean().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    gate.apply()
    closed = {name: 1 - scaled for name, scaled in gate.scaled_utilities().items()}
    for name, group in (("0.weight", "0"), ("1.weight", "0"), ("1.bias", "0"), ("3.weight", "3"), ("3.bias", "3")):
        factor = closed[group].reshape(-1, *(1 for _ in before[name].shape[1:]))
        torch.testing.assert_close(model.get_parameter(name).grad, before[name] * factor, rtol=1e-12, atol=0)
        assert closed[group].max() - closed[group].min() > 1e-3
    assert model[6].weight.grad.equal(before["6.weight"])
    assert model[6].bias.grad.equal(before["6.bias"])


def test_utility_of_a_channel_is_measured_by_a_gate_on_it():
    model = conv(norm=False)
    x = data(shape=(1, 6, 6))[0]
    gate_on = torch.ones(4, dtype=torch.float64, requires_grad=True)
    hidden = model[2](model[0](x)) * gate_on[:, None, None]
    model[6](model[5](model[4](model[3](hidden)))).square().mean().backward()
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), decay_rate=0.0, units=discover_units(model, x))
    gate.apply()
    torch.testing.assert_close(gate.state_dict()["units"]["0"]["utility"], -gate_on.grad, rtol=1e-12, atol=1e-15)


def test_every_reader_adds_to_the_utility_of_a_unit():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)

        def forward(self, x):
            h = self.body(x).tanh()
            return torch.cat([self.one(h), self.two(h)], dim=-1)

    torch.manual_seed(0)
    model = TwoHeads().double()
    x = data(shape=(3,))[0]
    rows = torch.arange(4)[:, None]
    incoming = tuple(Slot(model.body, name, f"body.{name}", (0,), (rows,)) for name in ("weight", "bias"))
    outgoing = tuple(Slot(head, "weight", "head.weight", (1,), (rows,)) for head in (model.one, model.two))
    group = UnitGroup("body", 4, incoming, (), outgoing, tap=None)
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), decay_rate=0.0, units=[group])
    model(x).square().mean().backward()
    gate.apply()
    expected = -(model.one.weight * model.one.weight.grad).sum(0) - (model.two.weight * model.two.weight.grad).sum(0)
    torch.testing.assert_close(gate.state_dict()["units"]["body"]["utility"], expected.detach(), rtol=1e-12, atol=1e-15)


def test_entries_that_write_no_unit_keep_their_gradient_and_get_no_noise():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    (group,) = discover_units(model, data(shape=(3,))[0])
    half = group.incoming[0].__class__
    slots = tuple(half(s.module, s.name, s.path, s.dims, (torch.tensor([[3], [1]]),)) for s in group.incoming)
    readers = tuple(half(s.module, s.name, s.path, s.dims, (torch.tensor([[3], [1]]),)) for s in group.outgoing)
    part = type(group)(group.name, 2, slots, (), readers, group.tap)
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), noise_std=1.0, units=[part], seed=0)
    model(data(shape=(3,))[0]).square().mean().backward()
    before = model[0].weight.grad.clone()
    gate.apply()
    changed = (model[0].weight.grad != before).any(1)
    assert changed.tolist() == [False, True, False, True]


@pytest.mark.parametrize("per_unit", [False, True])
def test_a_saved_and_restored_gate_goes_on_bit_for_bit(per_unit):
    ends = []
    for cut in (20, 9):
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        units = discover_units(model, data()[0]) if per_unit else None
        gate = UtilityGate(optimizer, noise_std=0.1, units=units, seed=3).attach()
        train(model, optimizer, data()[:cut])
        file = io.BytesIO()
        torch.save(gate.state_dict(), file)
        file.seek(0)
        gate.detach()
        again = UtilityGate(optimizer, noise_std=0.1, units=units, seed=77)
        again.load_state_dict(torch.load(file, weights_only=True))
        with again:
            train(model, optimizer, data()[cut:])
        ends.append(model)
    assert equal(*ends)


def test_no_trace_is_left_after_detach():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = dict(vars(optimizer))
    gate = UtilityGate(optimizer).attach().attach()
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    gate.detach()
    gate.detach()
    assert len(optimizer._optimizer_step_pre_hooks) == 0
    assert set(vars(optimizer)) == set(before)


@pytest.mark.parametrize("positional", [True, False])
def test_with_a_closure_the_gradients_of_the_closure_are_gated(positional):
    model, twin = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(data()[0]).square().mean()
        loss.backward()
        return loss

    with UtilityGate(optimizer, seed=3):
        loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
    assert loss > 0
    train(twin, UPGD(twin.parameters(), lr=0.1, seed=3), data()[:1])
    assert equal(model, twin)


def test_accumulated_gradients_are_one_step():
    model, twin = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with UtilityGate(optimizer, seed=3) as gate:
        for x in data()[0].split(1):
            (model(x).square().mean() / 4).backward()
        optimizer.step()
    assert gate.state_dict()["weights"][0]["step"] == 1
    train(twin, UPGD(twin.parameters(), lr=0.1, seed=3), data()[:1])
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("maker", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_that_the_gradient_scaler_skips_never_happened(maker):
    model = mlp(dtype=torch.float32)
    optimizer = maker(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with UtilityGate(optimizer, seed=3) as gate:
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(data(dtype=torch.float32)[0]).square().mean() * factor).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert gate.state_dict()["weights"][0]["step"] == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_fused_optimizer_that_skips_on_the_device_is_honoured():
    model = mlp(dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with UtilityGate(optimizer, seed=3) as gate:
        for factor in (1.0, float("inf")):
            optimizer.zero_grad()
            scaler.scale(model(data(dtype=torch.float32)[0]).square().mean() * factor).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert gate.state_dict()["weights"][0]["step"] == 1
        optimizer.zero_grad()
        scaler.scale(model(data(dtype=torch.float32)[0]).square().mean()).backward()
        with pytest.raises(UnsupportedOptimizerError, match=r"Adam unscales the gradients itself.*scaler.unscale_"):
            scaler.step(optimizer)


def test_only_the_chosen_parameters_are_gated():
    model = mlp()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "gated": False}], 0.1
    )
    gate = UtilityGate(optimizer, parameters=[model[0].weight, model[2].weight])
    model(data()[0]).square().mean().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    gate.apply()
    assert [name for name, grad in before.items() if not model.get_parameter(name).grad.equal(grad)] == ["0.weight"]
    assert list(gate.scaled_utilities()) == [model[0].weight]


def test_maximize_gates_by_the_utility_of_the_negative_objective():
    ends = []
    for maximize, per_unit in ((False, False), (True, False), (False, True), (True, True)):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=maximize)
        units = discover_units(model, data()[0]) if per_unit else None
        with UtilityGate(optimizer, noise_std=0.0, units=units):
            for x in data():
                optimizer.zero_grad()
                (model(x).square().mean() * (-1 if maximize else 1)).backward()
                optimizer.step()
        ends.append(model)
    assert equal(ends[0], ends[1])
    assert equal(ends[2], ends[3])
    assert not equal(ends[0], ends[2])


def test_a_new_optimizer_goes_on_with_the_old_utilities():
    model, twin = mlp(), mlp()
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    gate = UtilityGate(first, seed=3).attach()
    train(model, first, data()[:10])
    second = torch.optim.SGD(model.parameters(), lr=0.1)
    gate.rebind(second)
    assert not first._optimizer_step_pre_hooks
    with gate:
        train(model, second, data()[10:])
    train(twin, UPGD(twin.parameters(), lr=0.1, seed=3), data())
    assert equal(model, twin)


def test_new_units_keep_the_utilities_of_groups_of_the_same_name_and_size():
    model, wider = mlp((5, 8, 6, 3)), mlp((5, 8, 7, 3))
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), units=discover_units(model, data()[0])).attach()
    train(model, gate.optimizer, data())
    before = gate.state_dict()
    gate.regroup(discover_units(wider, data()[0]))
    after = gate.state_dict()
    assert {name: part["step"] for name, part in after["units"].items()} == {"0": 20, "2": 0}
    assert after["units"]["0"]["utility"].equal(before["units"]["0"]["utility"])
    assert after["units"]["2"]["utility"].equal(torch.zeros(7, dtype=torch.float64))
    assert after["noise"]["cpu"].equal(before["noise"]["cpu"])
    assert set(gate.scaled_utilities()) == {"0"}


def test_units_for_a_gate_of_weights_are_refused():
    model = mlp()
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InvalidArgumentError, match=r"one utility per weight.*built with `units`.*Leave `regroup` out"):
        gate.regroup(discover_units(model, data()[0]))


def test_units_whose_readers_have_no_gradient_pass_and_keep_their_clock():
    model = mlp()
    gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), units=discover_units(model, data()[0]))
    model(data()[0]).square().mean().backward()
    model[4].weight.grad = None
    before = model[2].weight.grad.clone()
    gate.apply()
    assert model[2].weight.grad.equal(before)
    assert {name: part["step"] for name, part in gate.state_dict()["units"].items()} == {"0": 1, "2": 0}


def test_a_state_of_other_shapes_is_refused_and_changes_nothing():
    gate = UtilityGate(torch.optim.SGD(mlp().parameters(), lr=0.1))
    other = UtilityGate(torch.optim.SGD(mlp((5, 3)).parameters(), lr=0.1))
    with pytest.raises(StateMismatchError, match=r"saved utilities of 6 parameters.*those of the 2 that are.*drop"):
        other.load_state_dict(gate.state_dict())


def test_a_state_of_other_parameters_is_refused_with_those_that_differ_and_changes_nothing():
    def gate_of(*widths):
        model = mlp(widths)
        gate = UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1))
        model(torch.ones(2, widths[0], dtype=torch.float64)).sum().backward()
        gate.apply()
        return gate

    saved, other = gate_of(5, 3).state_dict(), gate_of(4, 3)
    before = other.state_dict()["weights"][0]["utility"].clone()
    with pytest.raises(StateMismatchError, match=r"parameters: parameter 0 was \[3, 5\] and is \[3, 4\]\. .*drop it"):
        other.load_state_dict(saved)
    assert torch.equal(other.state_dict()["weights"][0]["utility"], before)


def test_a_state_per_unit_does_not_fit_a_gate_per_weight_nor_other_units():
    model = mlp()
    optimizer, units = torch.optim.SGD(model.parameters(), lr=0.1), discover_units(model, data()[0])
    state = UtilityGate(optimizer, units=units).state_dict()
    with pytest.raises(StateMismatchError, match=r"\['noise', 'units'\].*\['noise', 'weights'\].*per unit"):
        UtilityGate(optimizer).load_state_dict(state)
    with pytest.raises(StateMismatchError, match=r"units \{'0': 8, '2': 6\}.*\{'0': 8\}.*include and exclude"):
        UtilityGate(optimizer, units=units.select(include=["0"])).load_state_dict(state)


def test_a_gate_goes_on_with_other_parameters_and_keeps_what_it_knows():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gate = UtilityGate(optimizer, noise_std=0.0, parameters=[model[0].weight, model[2].weight]).attach()
    train(model, optimizer, data(2))
    gate.choose([model[0].weight, model[4].weight])
    before = gate.gates.memory[model[2].weight]["utility"].clone()
    train(model, optimizer, data(3))
    steps = {parameter: part["step"] for parameter, part in gate.gates.memory.items()}
    assert [steps[model[i].weight] for i in (0, 2, 4)] == [5, 2, 3]
    assert gate.gates.memory[model[2].weight]["utility"].equal(before)
    assert gate.gated() == {model[0].weight, model[4].weight}
    gate.choose(None)
    assert gate.gated() == set(model.parameters())


def test_only_a_gate_of_weights_can_choose_among_them_and_only_those_of_its_optimizer():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidArgumentError, match=r"one utility per unit.*without `units`.*`regroup\(units\)`"):
        UtilityGate(optimizer, units=units_of(model)).choose(model.parameters())
    with pytest.raises(InvalidArgumentError, match="gates no parameter"):
        UtilityGate(optimizer).choose(mlp().parameters())


@pytest.mark.parametrize("state", [None, [], {}, {"weights": []}])
def test_what_is_no_state_is_refused_by_everything_that_loads_one(state):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engines = (
        *(UtilityGate(optimizer), UtilityGate(optimizer, units=units_of(model)), UPGD(model.parameters())),
        *(Decay(optimizer, 1.0), ShrinkPerturb(model), NoiseSource(0)),
        UnitReplacer(continual_backprop(), units_of(model), optimizer),
    )
    for engine in engines:
        with pytest.raises(StateMismatchError, match=r"(a state of type|with the entries).*one with the entries \['"):
            engine.load_state_dict(state)


def test_frozen_readers_are_refused_by_name():
    model = mlp()
    units = discover_units(model, data()[0])
    model[4].weight.requires_grad_(False)
    with pytest.raises(UnsupportedModelError, match=r"units of \['2'\] are read by frozen weights only.*`exclude`"):
        UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), units=units)


def test_lbfgs_is_refused():
    with pytest.raises(UnsupportedOptimizerError, match=r"LBFGS.*one gradient per step.*SGD, Adam"):
        UtilityGate(torch.optim.LBFGS(mlp().parameters()))


def test_sparse_gradients_are_refused():
    layer = nn.Embedding(5, 2, sparse=True)
    gate = UtilityGate(torch.optim.SGD(layer.parameters(), lr=0.1))
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedOptimizerError, match=r"sparse gradient.*UtilityGate adds noise.*sparse=False"):
        gate.apply()


def test_values_out_of_range_are_refused():
    with pytest.raises(InvalidArgumentError, match="decay_rate=1"):
        UtilityGate(torch.optim.SGD(mlp().parameters(), lr=0.1), decay_rate=1)


@pytest.mark.parametrize("kind", [UPGD, AdaUPGD])
def test_an_optimizer_that_is_one_of_upgd_is_not_gated_twice(kind):
    optimizer = kind(mlp().parameters())
    with pytest.raises(UnsupportedOptimizerError, match=rf"{kind.__name__} behind another gate.*UPGDPerturb"):
        UtilityGate(optimizer)
    gate = UtilityGate(torch.optim.SGD(mlp().parameters(), lr=0.1))
    with pytest.raises(UnsupportedOptimizerError, match="behind another gate"):
        gate.rebind(optimizer)


@pytest.mark.parametrize("optimizer", [None, "sgd", torch.optim.SGD])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(InvalidArgumentError, match=r"an optimizer of type.*torch.optim.Optimizer.*Build one"):
        UtilityGate(optimizer)
    with pytest.raises(InvalidArgumentError, match=r"an optimizer of type"):
        Decay(optimizer, 1.0)


def test_a_seed_may_be_a_whole_number_of_numpy():
    zeros = torch.zeros(20)
    assert NoiseSource(numpy.int64(3)).draw(zeros, 1.0).equal(NoiseSource(3).draw(zeros, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(lambda model: {"parameters": []}, "parameters without any", id="no parameter"),
        pytest.param(lambda model: {"parameters": model}, "parameters with Linear", id="a module"),
        pytest.param(lambda model: {"parameters": model[0].weight}, "of type Parameter", id="a single tensor"),
        pytest.param(lambda model: {"parameters": ["0.weight"]}, "'0.weight' among them", id="names"),
        pytest.param(lambda model: {"parameters": mlp().parameters()}, "gates no parameter", id="another model's"),
        pytest.param(lambda model: {"units": []}, r"units=\[\]", id="no units"),
        pytest.param(lambda model: {"units": "0"}, "units='0'", id="a name"),
        pytest.param(lambda model: {"units": units_of(model)["0"]}, "units of type UnitGroup", id="a single group"),
        pytest.param(lambda model: {"units": units_of(mlp())}, "gates no parameter of SGD", id="another model's units"),
        pytest.param(
            lambda model: {"units": units_of(model), "parameters": model.parameters()}, "both `units`", id="both"
        ),
        pytest.param(lambda model: {"curvature": HesScale}, "curvature=<class", id="a class of curvature"),
        pytest.param(lambda model: {"curvature": "hesscale"}, "curvature='hesscale'", id="a name of curvature"),
    ],
)
def test_a_gate_of_nothing_is_refused(arguments, message):
    model = mlp()
    with pytest.raises(InvalidArgumentError, match=message):
        UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), **arguments(model))


def units_of(model):
    return discover_units(model, torch.zeros(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("optimizer", [UPGD, AdaUPGD])
def test_upgd_takes_a_source_of_curvature_and_no_name_of_one(optimizer):
    with pytest.raises(InvalidArgumentError, match="curvature='hesscale'"):
        optimizer(mlp().parameters(), curvature="hesscale")


def test_units_of_a_model_that_has_changed_are_refused():
    model = mlp()
    units = units_of(model)
    model[2] = nn.Linear(8, 6).double()
    with pytest.raises(StateMismatchError, match="no longer part of the model"):
        UtilityGate(torch.optim.SGD(model.parameters(), lr=0.1), units=units)


def test_a_layer_exchanged_under_a_running_gate_is_refused_at_the_next_step():
    model = mlp()
    optimizer, units = torch.optim.SGD(model.parameters(), lr=0.1), units_of(model)
    gate = UtilityGate(optimizer, units=units).attach()
    model(data()[0]).square().mean().backward()
    optimizer.step()
    model[4] = nn.Linear(6, 4).double()
    model(data()[0]).square().mean().backward()
    with pytest.raises(
        StateMismatchError, match=r"\['4.weight'\], which is no longer.*`units = units.update\(model\)`"
    ):
        optimizer.step()
    gate.regroup(units.update(model))
    optimizer.step()
    assert {part["step"] for part in gate.state_dict()["units"].values()} == {2}


def test_a_gate_does_not_go_on_with_the_optimizer_of_another_model():
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    gate = UtilityGate(optimizer, parameters=optimizer.param_groups[0]["params"]).attach()
    with pytest.raises(InvalidArgumentError, match="gates no parameter"):
        gate.rebind(torch.optim.SGD(mlp().parameters(), lr=0.1))
    assert gate.optimizer is optimizer


def test_two_gates_of_the_same_parameters_are_refused_and_those_of_different_ones_are_not():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    UtilityGate(optimizer, parameters=model[0].parameters()).attach()
    UtilityGate(optimizer, parameters=model[2].parameters()).attach()
    with pytest.raises(UnsupportedOptimizerError, match="two gates in front of SGD, which share 2 parameters"):
        UtilityGate(optimizer, units=units_of(model)).attach()
    assert len(optimizer._optimizer_step_pre_hooks) == 2


@pytest.mark.parametrize("one", [UPGD, AdaUPGD])
def test_the_state_of_the_other_optimizer_of_upgd_is_refused(one):
    other = AdaUPGD if one is UPGD else UPGD
    model = mlp()
    saved = other(model.parameters())
    train(model, saved, data(1))
    optimizer = one(model.parameters())
    with pytest.raises(StateMismatchError, match=f"one of {one.__name__}, which remembers"):
        optimizer.load_state_dict(saved.state_dict())
    assert optimizer.defaults["lr"] == optimizer.param_groups[0]["lr"]
