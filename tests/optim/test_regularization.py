import io

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError
from lightning_plasticity.optim.regularization import Decay

START = [3.0, -0.5, 0.0, 0.05]


def parameter(values=START):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def walk(steps, lr, strength, norm, toward, slope):
    """Gradient descent with the decay after each step, in Python floats."""
    weights, first = list(START), list(START) if toward == "initial" else [0.0] * 4
    for _ in range(steps):
        for i, target in enumerate(first):
            w = weights[i] - lr * slope[i]
            distance = w - target
            if norm == 2:
                w -= lr * strength * distance
            elif abs(distance) <= lr * strength:
                w = target
            else:
                w -= lr * strength * (1 if distance > 0 else -1)
            weights[i] = w
    return weights


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("toward", ["zero", "initial"])
def test_decays_follow_their_equations(norm, toward):
    weight, slope = parameter(), [1.0, -2.0, 0.0, 0.3]
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with Decay(optimizer, 0.7, norm=norm, toward=toward):
        for _ in range(10):
            weight.grad = torch.tensor(slope, dtype=torch.float64)
            optimizer.step()
    expected = torch.tensor(walk(10, 0.1, 0.7, norm, toward, slope), dtype=torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(expected, torch.tensor(START, dtype=torch.float64) - torch.tensor(slope))


def test_the_decay_does_not_pass_the_moments_of_the_optimizer():
    weight = parameter()
    optimizer = torch.optim.Adam([weight], lr=0.1)
    with Decay(optimizer, 1.0):
        weight.grad = torch.zeros(4, dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), 0.9 * torch.tensor(START, dtype=torch.float64))
    assert optimizer.state[weight]["exp_avg"].eq(0).all()


def test_the_one_norm_ends_at_zero_and_stays_there():
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with Decay(optimizer, 1.0, norm=1):
        for _ in range(50):
            weight.grad = torch.zeros(4, dtype=torch.float64)
            optimizer.step()
    assert weight.detach().eq(0).all()


def test_learning_rates_of_groups_and_tensors_count_and_parameters_without_gradient_stay():
    one, two, three = parameter(), parameter(), parameter()
    groups = [{"params": [one], "lr": torch.tensor(0.5, dtype=torch.float64)}, {"params": [two, three], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    one.grad, two.grad = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    with Decay(optimizer, 1.0):
        optimizer.step()
    for weight, rate in ((one, 0.5), (two, 0.1), (three, 0.0)):
        torch.testing.assert_close(weight.detach(), (1 - rate) * torch.tensor(START, dtype=torch.float64))


def test_only_the_chosen_parameters_decay_and_detach_ends_it():
    one, two = parameter(), parameter()
    one.grad, two.grad = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    optimizer = torch.optim.SGD([one, two], lr=0.1)
    decay = Decay(optimizer, 1.0, parameters=[two]).attach()
    optimizer.step()
    decay.detach()
    optimizer.step()
    assert one.detach().equal(torch.tensor(START, dtype=torch.float64))
    torch.testing.assert_close(two.detach(), 0.9 * torch.tensor(START, dtype=torch.float64))
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_does_not_decay(fused):
    weight = nn.Parameter(torch.tensor(START))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    with Decay(optimizer, 1.0):
        scaler.scale((weight * float("inf")).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert weight.detach().equal(torch.tensor(START))


def test_the_initial_weights_are_saved_and_restored():
    weight = parameter()
    file = io.BytesIO()
    torch.save(Decay(torch.optim.SGD([weight], lr=0.1), 1.0, toward="initial").state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        weight.add_(10)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    decay = Decay(optimizer, 10.0, toward="initial")
    decay.load_state_dict(torch.load(file, weights_only=True))
    weight.grad = torch.zeros(4, dtype=torch.float64)
    with decay:
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor(START, dtype=torch.float64))


def test_initial_weights_of_other_shapes_are_refused():
    state = Decay(torch.optim.SGD([parameter()], lr=0.1), 1.0, toward="initial").state_dict()
    other = Decay(torch.optim.SGD([parameter([1.0])], lr=0.1), 1.0, toward="initial")
    with pytest.raises(StateMismatchError, match=r"initial weights.*parameter 0 was \[4\] and is \[1\].*drop it"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("strength", -1, r"in \[0, inf\)"), ("norm", 3, "1 or 2"), ("toward", "one", "'initial'")],
)
def test_values_of_a_decay_out_of_range_are_refused(name, value, expected):
    with pytest.raises(InvalidArgumentError, match=rf"{name}={value!r}.*{expected}"):
        Decay(torch.optim.SGD([parameter()], lr=0.1), **({"strength": 1.0} | {name: value}))


@pytest.mark.parametrize(
    ("toward", "strength", "message"),
    [("zero", 15.0, r"lr \* strength = 1.5, whose steps lead past zero\. .*below 10"),
     ("initial", 30.0, r"of SGD with .* = 3, .* past the initial weights, farther each time\. .*at most 1.*below 10")],
)  # fmt: skip
def test_a_decay_past_its_target_warns_once(toward, strength, message):
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.zeros(4, dtype=torch.float64)
    with Decay(optimizer, strength, toward=toward):
        with pytest.warns(UserWarning, match=message):
            optimizer.step()
        optimizer.step()  # warnings are errors here


@pytest.mark.parametrize("settings", [{"strength": 10.0}, {"strength": 30.0, "norm": 1}, {"strength": 0.0}])
def test_a_decay_that_ends_at_its_target_does_not_warn(settings):
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.1))
    weight.grad = torch.zeros(4, dtype=torch.float64)
    with Decay(optimizer, **settings):
        optimizer.step()


@pytest.mark.parametrize("parameters", [nn.Linear(2, 2), "weight", [], torch.ones(2)])
def test_what_holds_no_parameters_is_refused(parameters):
    with pytest.raises(
        InvalidArgumentError, match=r"parameters (of type|without|with) .*`model.parameters.*None takes all"
    ):
        Decay(torch.optim.SGD([parameter()], lr=0.1), 1.0, parameters=parameters)


def test_a_parameter_that_comes_later_is_pulled_to_where_it_was_after_its_first_step():
    first, later = parameter(), parameter()
    optimizer = torch.optim.SGD([first], lr=0.1)
    decay = Decay(optimizer, 1.0, toward="initial").attach()
    optimizer.add_param_group({"params": [later]})
    for each in (first, later):
        each.grad = torch.ones(4, dtype=torch.float64)
    start = torch.tensor(START, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(first.detach(), start - 0.1 * 0.9)
    torch.testing.assert_close(later.detach(), start - 0.1)
    optimizer.step()
    torch.testing.assert_close(later.detach(), start - 0.1 - 0.1 * 0.9)
    assert len(decay.state_dict()["initial"]) == 2
