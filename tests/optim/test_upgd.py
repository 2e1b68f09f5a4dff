import copy
import io
import math

import pytest
import torch
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError, UnsupportedOptimizerError
from lightning_plasticity.optim import UPGD, AdaUPGD, blocks
from lightning_plasticity.optim.noise import NoiseSource

SHAPES = [(4, 3), (4,), (2, 4), (1, 5)]
OPTIMIZERS = [UPGD, AdaUPGD]


def parameters(dtype=torch.float64, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(steps, dtype=torch.float64, seed=1, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes] for _ in range(steps)]


def run(optimizer, params, steps):
    for step in steps:
        for parameter, gradient in zip(params, step, strict=True):
            parameter.grad = gradient
        optimizer.step()


def as_rows(tensor):
    return tensor.tolist() if tensor.ndim > 1 else [tensor.tolist()]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("protecting", [True, False])
@pytest.mark.parametrize("correction", ["paper", "reference"])
@pytest.mark.parametrize("scaling", ["global", "local", "abs"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_hundred_steps_follow_the_equations(
    kind, scaling, correction, protecting, order, foreach, oracle, given_curvature
):
    extra = {"betas": (0.8, 0.95), "eps": 1e-5} if kind is AdaUPGD else {}
    settings = {"lr": 0.05, "weight_decay": 0.1, "decay_rate": 0.9, "scaling": scaling, "correction": correction}
    settings |= {"protecting": protecting, "gate_scale": 1.0 if order == 1 else 2.0} | extra
    params, steps = parameters(), gradients(100)
    for t in range(3, 100, 7):
        steps[t][2] = None  # this parameter then has another clock
    bends = gradients(100, seed=2) if order == 2 else [[None] * len(SHAPES)] * 100
    rows = [as_rows(p.detach()) for p in params]
    optimizer = kind(
        params, noise_std=0.3, foreach=foreach, seed=5, curvature=given_curvature if order == 2 else None, **settings
    )
    for step, bend in zip(steps, bends, strict=True):
        given_curvature.values = dict(zip(params, bend, strict=True))
        run(optimizer, params, [step])
    source = NoiseSource(seed=5)
    noises = [[None if g is None else as_rows(source.draw(g, 0.3)) for g in step] for step in steps]
    given = [
        [
            None if g is None else (as_rows(g), None if h is None else as_rows(h))
            for g, h in zip(step, bend, strict=True)
        ]
        for step, bend in zip(steps, bends, strict=True)
    ]
    before = [torch.tensor(row) for row in rows]
    oracle.upgd(rows, given, noises, **settings)
    for parameter, row, start in zip(params, rows, before, strict=True):
        expected = torch.tensor(row, dtype=torch.float64).reshape(parameter.shape)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-13)
        assert (parameter.detach() - start.reshape(parameter.shape)).abs().min() > 1e-3
    assert given_curvature.taken == (sum(g is not None for step in steps for g in step) if order == 2 else 0)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("scaling", ["global", "local", "abs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cutting_into_pieces_and_joining_into_lists_give_equal_weights(kind, scaling, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 64)
    shapes = [(3, 64 // 2 + 5), (64 + 7,), (3 * 64 + 20,), (), (5,)]
    ends = []
    for foreach in (None, True):
        params = parameters(dtype, shapes=shapes)
        run(kind(params, lr=0.1, scaling=scaling, foreach=foreach, seed=0), params, gradients(3, dtype, shapes=shapes))
        ends.append(params)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if dtype is torch.float32 else 8e-3, atol=1e-7)


def test_memory_layout_does_not_matter():
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        (parameter,) = parameters(shapes=[(4, 3, 5, 5)])
        parameter.data = parameter.data.contiguous(memory_format=layout)
        run(UPGD([parameter], weight_decay=0.1, seed=0), [parameter], gradients(5, shapes=[(4, 3, 5, 5)]))
        ends.append(parameter.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_maximize_descends_the_negative_objective(kind, given_curvature):
    ends = []
    for sign in (1, -1):
        params, steps = parameters(), gradients(10)
        given_curvature.values = {p: sign * torch.ones_like(p) for p in params}
        optimizer = kind(params, maximize=sign == -1, seed=0, curvature=given_curvature)
        run(optimizer, params, [[sign * g for g in step] for step in steps])
        ends.append(params)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("foreach", [False, True])
def test_capturable_and_tensor_learning_rates_take_the_same_steps(kind, foreach):
    ends = []
    for options in ({"lr": 0.01}, {"lr": torch.tensor(0.01, dtype=torch.float64), "capturable": True}):
        params = parameters()
        run(kind(params, decay_rate=0.99, foreach=foreach, seed=0, **options), params, gradients(10))
        ends.append(params)
    for one, other in zip(*ends, strict=True):  # the clock on the device is in single precision
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_capturable_with_no_memory_divides_by_no_zero():
    params = parameters()
    run(UPGD(params, decay_rate=0.0, capturable=True, seed=0), params, gradients(2))
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_group_without_gate_takes_plain_steps(kind):
    plain = {UPGD: torch.optim.SGD, AdaUPGD: torch.optim.AdamW}[kind]
    params, twins, steps = parameters(), parameters(), gradients(20)
    run(kind([{"params": params, "gated": False}], lr=0.01, weight_decay=0.0, seed=0), params, steps)
    run(plain(twins, lr=0.01, weight_decay=0.0, **({"eps": 1e-5} if kind is AdaUPGD else {})), twins, steps)
    for one, other in zip(params, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_a_group_without_gate_stays_out_of_the_maximum():
    params = parameters(shapes=[(3,), (3,)])
    params[1].data.fill_(1e6)
    optimizer = UPGD([{"params": params[:1]}, {"params": params[1:], "gated": False}], noise_std=0.0, lr=0.1)
    alone = parameters(shapes=[(3,), (3,)])[:1]
    steps = gradients(3, shapes=[(3,), (3,)])
    run(optimizer, params, steps)
    run(UPGD(alone, noise_std=0.0, lr=0.1), alone, [step[:1] for step in steps])
    assert params[0].equal(alone[0])


def test_groups_may_differ_in_every_setting():
    params, steps = parameters(shapes=[(3, 2), (3, 2)]), gradients(5, shapes=[(3, 2), (3, 2)])
    groups = [{"params": params[:1], "scaling": "local"}, {"params": params[1:], "scaling": "abs", "noise_std": 0.0}]
    run(UPGD(groups, seed=0, lr=0.1), params, steps)
    for i, scaling, noise_std in ((0, "local", 1e-3), (1, "abs", 0.0)):
        alone = parameters(shapes=[(3, 2), (3, 2)])[i]
        optimizer = UPGD([alone], seed=0, lr=0.1, scaling=scaling, noise_std=noise_std)
        run(optimizer, [alone], [[step[i]] for step in steps])
        assert params[i].equal(alone)


def test_a_parameter_without_gradient_is_left_alone():
    params = parameters(shapes=[(3,), (2,)])
    still = params[1].detach().clone()
    optimizer = UPGD(params, weight_decay=0.5, seed=0)
    run(optimizer, params, [[torch.ones(3, dtype=torch.float64), None]] * 2)
    assert params[1].equal(still)
    assert params[1] not in optimizer.state


def test_empty_and_scalar_parameters_are_no_trouble():
    params = [nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.tensor(2.0))]
    run(UPGD(params, noise_std=0.0, lr=0.1), params, [[torch.empty(0, 3), torch.tensor(1.0)]])
    assert params[1].item() == pytest.approx(2 - 0.1)  # the only utility is negative: a full step


def test_no_gradient_anywhere_is_a_step_without_effect():
    params = parameters()
    UPGD(params).step()
    assert all(p.equal(q) for p, q in zip(params, parameters(), strict=True))


def test_the_closure_is_run_with_gradients_and_its_loss_returned():
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = UPGD([weight], lr=0.1, noise_std=0.0)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9
    assert weight.item() == pytest.approx(3 - 0.1 * 6)


def test_parameters_of_two_precisions_share_an_optimizer():
    ends = []
    for foreach in (False, True):
        params = [*parameters(torch.float32), *parameters(torch.float64)]
        steps = [a + b for a, b in zip(gradients(5, torch.float32), gradients(5), strict=True)]
        run(UPGD(params, lr=0.1, weight_decay=0.1, foreach=foreach, seed=0), params, steps)
        ends.append(params)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if one.dtype is torch.float32 else 1e-12, atol=1e-7)


@pytest.mark.parametrize("scaling", ["global", "local", "abs"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_does_not_poison_the_utility(bad, scaling):
    ends, utilities = [], []
    for last in (bad, 0.0):  # a gradient of 0 has no utility either
        params = parameters(shapes=[(3,), (2,)])
        optimizer = UPGD(params, noise_std=0.1, scaling=scaling, seed=0)
        steps = [torch.tensor([1.0, -1.0, last], dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
        run(optimizer, params, [steps] * 2)
        ends.append(torch.cat([params[0][:2], params[1]]))
        utilities.append([optimizer.state[p]["utility"] for p in params])
    assert ends[0].equal(ends[1])
    assert all(one.equal(other) for one, other in zip(*utilities, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_utility_in_single_precision(dtype):
    weight = nn.Parameter(torch.full((4,), 1.0, dtype=dtype))
    optimizer = UPGD([weight], lr=0.0, decay_rate=0.9999, noise_std=0.0)
    run(optimizer, [weight], [[torch.full((4,), -1.0, dtype=dtype)]] * 500)
    assert optimizer.state[weight]["utility"].dtype == torch.float32
    torch.testing.assert_close(optimizer.state[weight]["utility"], torch.full((4,), 1 - 0.9999**500), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_saved_and_restored_optimizer_goes_on_bit_for_bit(kind, dtype):
    params, steps = parameters(dtype), gradients(20, dtype)
    whole = kind(params, lr=0.1, noise_std=0.1, seed=3)
    run(whole, params, steps)
    others = parameters(dtype)
    first = kind(others, lr=0.1, noise_std=0.1, seed=3)
    run(first, others, steps[:11])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = kind(others, lr=0.7, noise_std=0.9, seed=4)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(second, others, steps[11:])
    assert all(p.equal(q) for p, q in zip(params, others, strict=True))


def test_a_copy_goes_on_like_the_original():
    params = parameters()
    optimizer = UPGD(params, lr=0.1, noise_std=0.1, seed=3)
    run(optimizer, params, gradients(3))
    twins, twin = copy.deepcopy((params, optimizer))
    run(optimizer, params, gradients(3))
    run(twin, twins, gradients(3))
    assert all(p.equal(q) for p, q in zip(params, twins, strict=True))


def test_the_state_of_another_optimizer_is_refused():
    params = parameters()
    with pytest.raises(StateMismatchError, match=r"entries \['state', 'param_groups'\].*'noise'.*start afresh"):
        UPGD(params).load_state_dict(torch.optim.SGD(params).state_dict())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_users_random_numbers_are_not_touched(kind):
    params = parameters()
    before = torch.get_rng_state()
    run(kind(params), params, gradients(2))
    assert torch.get_rng_state().equal(before)


def test_the_noise_does_not_repeat_the_numbers_of_the_initialisation():
    torch.manual_seed(0)
    drawn = torch.randn(64)
    assert not NoiseSource().draw(drawn, 1.0).equal(drawn)
    assert not NoiseSource(seed=0).draw(drawn, 1.0).equal(drawn)


def test_the_noise_has_its_standard_deviation_and_vanishes_where_a_weight_is_useful():
    weight = nn.Parameter(torch.cat([torch.zeros(50_000), torch.full((50_000,), -1.0)]).double())
    optimizer = UPGD([weight], lr=1.0, noise_std=0.5, decay_rate=0.0, seed=0)
    gradient = torch.zeros(100_000, dtype=torch.float64)
    gradient[50_000:] = 1e-9
    run(optimizer, [weight], [[gradient]])
    moved = weight.detach() - torch.cat([torch.zeros(50_000), torch.full((50_000,), -1.0)])
    assert moved[:50_000].std().item() == pytest.approx(0.25, rel=0.02)  # half of the noise
    assert moved[50_000:].std().item() == pytest.approx(0.5 * (1 - 1 / (1 + math.exp(-1))), rel=0.02)


def test_complex_parameters_are_refused():
    with pytest.raises(UnsupportedOptimizerError, match=r"parameter 1 of group 0 is complex.*two real"):
        UPGD([torch.zeros(2, requires_grad=True), torch.zeros(2, dtype=torch.complex64, requires_grad=True)])


def test_sparse_gradients_are_refused():
    layer = nn.Embedding(5, 2, sparse=True)
    optimizer = UPGD(layer.parameters())
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedOptimizerError, match=r"parameter 0 of a group has a sparse gradient.*sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lr", -1.0, r"in \[0, inf\)"),
        ("weight_decay", -1.0, r"in \[0, inf\)"),
        ("noise_std", -1.0, r"in \[0, inf\)"),
        ("noise_std", math.inf, r"in \[0, inf\)"),
        ("decay_rate", 1.0, r"in \[0, 1\)"),
        ("scaling", "layer", "'global', 'local', 'abs' or 'none'"),
        ("correction", "none", "'paper' or 'reference'"),
        ("gate_scale", 0.0, r"in \(0, inf\)"),
        ("seed", -1, r"in \[0, inf\)"),
    ],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_values_out_of_range_are_refused_by_name(kind, name, value, expected):
    with pytest.raises(InvalidArgumentError, match=rf"{name}={value!r}.*{expected}.*`{name}`"):
        kind(parameters(), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("betas", (0.9, 1.0)), ("betas", 0.9), ("eps", 0.0)])
def test_adams_own_values_are_checked_too(name, value):
    with pytest.raises(InvalidArgumentError, match=rf"{name}.*in [\[(]0, "):
        AdaUPGD(parameters(), **{name: value})
