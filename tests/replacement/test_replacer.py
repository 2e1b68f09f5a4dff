"""The engine in a bare training loop."""

from __future__ import annotations

import copy
import io
import pickle  # noqa: S403 - events must survive processes
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.training_runs import backward, convnet, data, method, mlp, replacer_for, same, snapshot, train
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError, UnsupportedModelError
from lightning_plasticity.methods import continual_backprop, redo
from lightning_plasticity.replacement import GradientUtility, UnitReplacer
from lightning_plasticity.replacement.ages import Ages
from lightning_plasticity.replacement.alarm import PATIENCE
from lightning_plasticity.replacement.observability import age_scalars
from lightning_plasticity.replacement.selection import LowestMature
from lightning_plasticity.replacement.watch import MOST_PASSES
from lightning_plasticity.units import discover_units


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    modules = [*model.modules()]
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)
    return on_modules + len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)


# ------------------------------------------------------------------------------------------------------- statistics


def test_accumulated_micro_batches_of_unequal_size_count_like_their_union():
    (inputs, targets), states = data(1, 12)[0], []
    for cuts in ([12], [1, 4, 7]):
        model = mlp().double()
        optimizer = sgd(model)
        replacer = replacer_for(model, optimizer, torch.randn(2, 6, dtype=torch.float64)).attach()
        for _ in range(12):
            optimizer.zero_grad()
            for x, y in zip(inputs.double().split(cuts), targets.split(cuts), strict=True):
                backward(model, (x, y), len(x) / 12)
            optimizer.step()
        states.append(replacer.state_dict()["groups"])
        assert replacer.ages[0].replaced > 0
    for name, group in states[0].items():
        assert same(group["ages"], states[1][name]["ages"])
        assert torch.allclose(group["memory"]["utility"], states[1][name]["memory"]["utility"], rtol=1e-9)


def test_evaluation_and_passes_without_gradients_change_no_state():
    model, batches = mlp(), data(6)
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    train(model, optimizer, batches)
    before = copy.deepcopy(replacer.state_dict()), copy.deepcopy(replacer.memory.flat)
    model.eval()
    model(batches[0][0])
    model.train()
    with torch.no_grad():
        model(batches[0][0])
    assert same(before, (replacer.state_dict(), replacer.memory.flat))
    model(batches[0][0])
    assert not same(before[1], replacer.memory.flat)  # the same pass counts where it trains


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.on = False

        def forward(self, x):
            x = self.net[0](x)
            return checkpoint(self.net[1:], x, use_reentrant=use_reentrant) if self.on else self.net[1:](x)

    states = []
    for on in (False, True):
        model = Checkpointed()
        optimizer = sgd(model)
        replacer = replacer_for(model, optimizer).attach()
        model.on = on
        train(model, optimizer, data(12))
        states.append((snapshot(model), replacer.state_dict()))
        assert replacer.ages[0].replaced > 0
    weights = [torch.cat([v.flatten() for v in state[0].values()]) for state in states]
    assert torch.allclose(*weights, rtol=1e-5)
    assert all(same(states[0][1]["groups"][n]["ages"], states[1][1]["groups"][n]["ages"]) for n in ("net.0", "net.2"))


def test_bfloat16_weights_keep_statistics_in_float32():
    model = mlp().bfloat16()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer, torch.randn(2, 6, dtype=torch.bfloat16)).attach()
    train(model, optimizer, [(x.bfloat16(), y) for x, y in data(12)])
    assert {t.dtype for t in replacer.memory.flat.values()} == {torch.float32}
    assert replacer.ages[1].replaced > 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_half_precision_activation_does_not_overflow_in_its_sum():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).bfloat16()
    replacer = replacer_for(model, sgd(model), torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)).attach()
    ones = torch.ones(4, 4, 128, 128, dtype=torch.float16)
    replacer._observation._watches[0]._listen(ones.requires_grad_())
    assert replacer.memory.parts[0]["seen"].flatten().tolist() == [4 * 128 * 128.0] * 4


# ----------------------------------------------------------------------------------------------------- skipped steps


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_leaves_no_trace(fused):
    runs = []
    for poisoned in (False, True):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=10_000)
        replacer = replacer_for(model, optimizer).attach()
        for i, (x, y) in enumerate(data(12)):
            for inputs in ([x * torch.inf] if poisoned and i == 8 else []) + [x]:
                optimizer.zero_grad()
                scaler.scale(nn.functional.cross_entropy(model(inputs), y)).backward()
                before = replacer.steps[0]
                scaler.step(optimizer)
                if replacer.steps[0] == before and not fused:
                    replacer.drop_readings()
                scaler.update(2.0)
        runs.append((snapshot(model), replacer.state_dict()))
        assert replacer.ages[0].replaced > 0
    assert same(*runs)


# ---------------------------------------------------------------------------------------------- what does not train


class Branches(nn.Module):
    """Two branches, of which a batch uses one."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head, self.use_b = nn.Linear(8, 3), True

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.b(x).relu() if self.use_b else self.a(x).relu()
        return self.head(x)


def test_units_of_an_unused_branch_do_not_age():
    torch.manual_seed(0)
    model = Branches()
    optimizer = sgd(model)
    units = discover_units(model, torch.randn(2, 6))
    replacer = UnitReplacer(method(), units, optimizer).attach()
    names = [group.name for group in replacer.groups]
    train(model, optimizer, data(4))
    model.use_b = False
    with pytest.warns(UserWarning, match="'a' runs, but did not on the example"):
        train(model, optimizer, data(5))
    assert replacer.ages[names.index("b")].step == 4
    assert replacer.ages[names.index("stem")].step == 9


def test_units_do_not_age_in_a_step_without_a_loss():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    model(data(1)[0][0])
    optimizer.step()
    assert [ages.step for ages in replacer.ages] == [0, 0]
    assert replacer.memory.flat["seen"].abs().sum() == 0


def test_a_layer_frozen_in_between_is_neither_aged_nor_changed():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    model[0].requires_grad_(False)
    before = snapshot(model[0])
    train(model, optimizer, data(12))
    assert same(before, model[0].state_dict())
    assert [ages.step for ages in replacer.ages] == [0, 12]


def test_a_callback_in_place_of_a_method_is_refused():
    model = mlp()
    with pytest.raises(InvalidArgumentError, match=r"Found: a method of type object\. .*such as continual_backprop"):
        UnitReplacer(object(), discover_units(model, torch.randn(2, 6)), sgd(model))


def test_a_model_in_place_of_its_units_is_refused():
    model = mlp()
    with pytest.raises(InvalidArgumentError, match=r"units of type Sequential.*a UnitMap.*discover_units"):
        UnitReplacer(continual_backprop(), model, sgd(model))


def test_frozen_layers_are_refused_by_name():
    model = mlp()
    units = discover_units(model, torch.randn(2, 6))
    model[4].requires_grad_(False)
    with pytest.raises(UnsupportedModelError, match=r"'2': \"'4.weight' is frozen\".*`exclude=`"):
        UnitReplacer(method(), units, sgd(model))


def test_layers_without_an_optimizer_are_refused_by_name():
    model = mlp()
    with pytest.raises(UnsupportedModelError, match=r"'0': 'its incoming weights belong to no optimizer'"):
        replacer_for(model, torch.optim.SGD(model[2:].parameters(), lr=0.1))


def test_units_on_several_devices_are_refused():
    model = mlp()
    units = discover_units(model, torch.randn(2, 6))
    model[4].to("meta")
    with pytest.raises(UnsupportedModelError, match=r"units on several devices: \['cpu', 'meta'\]"):
        UnitReplacer(method(), units, sgd(model))


def test_a_model_without_hidden_units_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match=r"no hidden units in Sequential:\n(.|\n)*skipped 0"):
        UnitReplacer(method(), discover_units(model, torch.randn(1, 2)), sgd(model))


def test_two_engines_of_the_same_units_are_refused_and_those_of_different_ones_are_not():
    model = mlp()
    optimizer, units = sgd(model), discover_units(model, torch.randn(2, 6))
    first = UnitReplacer(method(), units, optimizer).attach()
    second = UnitReplacer(redo(), units.select("2"), optimizer)
    with pytest.raises(InvalidArgumentError, match=r"two engines that replace the units of \['2'\].*neither knows"):
        second.attach()
    assert not second.attached
    first.attach()  # not its own rival
    first.detach()
    with second, UnitReplacer(method(), units.select("0"), optimizer):
        assert second.attached


# ------------------------------------------------------------------------------------------------ several optimizers


def test_a_unit_ages_with_the_optimizer_that_owns_its_incoming_weights_and_all_of_them_forget_it():
    model = mlp()
    one = torch.optim.SGD(model[:2].parameters(), lr=0.05, momentum=0.9)
    two = torch.optim.SGD(model[2:].parameters(), lr=0.05, momentum=0.9)
    replacer = replacer_for(model, [one, two], replacement_rate=1.0, maturity_threshold=5).attach()
    for i, batch in enumerate(data(6)):
        model.zero_grad()
        backward(model, batch)
        one.step()
        if i % 2:
            two.step()
    assert [ages.step for ages in replacer.ages] == [6, 3]
    assert [ages.replaced for ages in replacer.ages] == [16, 0]
    assert one.state[model[0].weight]["momentum_buffer"].abs().sum() == 0
    assert model[2].weight.abs().sum() > 0  # `two` stepped after the replacement, which it had forgotten


# ------------------------------------------------------------------------------------------------------------- state


def resumable(kind: str, *, upto: int, state: dict | None = None) -> dict:
    model = convnet() if kind == "conv" else mlp()
    shape = (10, 2, 4, 4) if kind == "conv" else (10, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    replacer = replacer_for(model, optimizer, torch.randn(2, *shape[1:]))
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        replacer.load_state_dict(state["replacer"])
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(shape, generator=generator), torch.arange(10) % 3) for _ in range(upto)]
    with replacer:
        train(model, optimizer, batches[0 if state is None else state["at"] :])
    assert sum(ages.replaced for ages in replacer.ages) > 0
    buffer = io.BytesIO()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "replacer": replacer.state_dict(),
            "at": upto,
        },
        buffer,
    )
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_resumed_while_entries_are_young_is_bit_for_bit_the_uninterrupted_run(kind):
    first = resumable(kind, upto=15)
    assert any(first["replacer"]["optimizers"][0].values())  # some entries are young
    assert same(resumable(kind, upto=40), resumable(kind, upto=40, state=first))


def state_of(model: nn.Module, **changes) -> dict:
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer, **changes).attach()
    train(model, optimizer, data(8))
    return replacer.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["groups"].pop("2"), r"it has no units of '2'"),
        (lambda s: s["groups"].update(other=s["groups"]["0"]), r"it has units of 'other', which are not treated here"),
        (lambda s: s.update(state_of(mlp(width=9))), r"'0': 9 units instead of 16; '2': 9 units instead of 16"),
        (lambda s: s["groups"]["2"]["parts"].__setitem__(1, "Other"), r"'2': the parts \['Contribution', 'Other'"),
        (lambda s: s["groups"]["2"]["memory"].pop("utility"), r"'2': the memory \{\} instead of \{'utility': \[16\]\}"),
        (lambda s: s["groups"]["2"]["held"][0].clear(), r"'2': other slots in what its edits hold"),
        (lambda s: s["optimizers"].append({}), r"it has 2 optimizers for \['0', '2'\]"),
        (lambda s: s.clear(), r"the entries \[\].*\['groups', 'generator', 'optimizers'\]"),
    ],
)
def test_a_state_of_another_model_or_method_names_the_layers_and_changes_nothing(change, message):
    state = state_of(mlp(seed=1))
    change(state)
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    train(model, optimizer, data(6))
    before = copy.deepcopy(replacer.state_dict())
    with pytest.raises(StateMismatchError, match=message):
        replacer.load_state_dict(state)
    assert same(before, replacer.state_dict())


def test_hyper_parameters_may_change_on_resume():
    state = state_of(mlp())
    model = mlp()
    replacer = replacer_for(model, sgd(model), replacement_rate=0.5)
    replacer.load_state_dict(state)
    assert same(replacer.state_dict(), state)


def test_a_grown_model_carries_over_what_it_knows():
    state = state_of(mlp())
    model = nn.Sequential(*mlp()[:3], nn.ReLU(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3))
    replacer = replacer_for(model, sgd(model))
    replacer.carry_over(state)
    assert [ages.step for ages in replacer.ages] == [8, 8, 0]
    assert same(replacer.state_dict()["groups"]["0"], state["groups"]["0"])


def test_other_optimizers_continue_the_ages_and_know_no_young_entries():
    model = mlp()
    first, second = (torch.optim.Adam(model.parameters()) for _ in range(2))
    replacer = replacer_for(model, first).attach()
    train(model, first, data(8))
    assert any(replacer.state_dict()["optimizers"][0])
    replacer.detach()
    replacer.use(second)
    replacer.attach()
    train(model, second, data(8))
    train(model, first, data(8))
    assert replacer.ages[0].step == 16
    assert not first._optimizer_step_post_hooks


# ---------------------------------------------------------------------------------------------------- leaving no trace


def test_detached_leaves_nothing_on_model_and_optimizer():
    model = convnet()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer, torch.randn(2, 2, 4, 4))
    attributes = [(set(vars(m)), vars(m).get("_forward_pre_hooks_with_kwargs")) for m in model.modules()]
    before = set(vars(optimizer)), hooks(model, optimizer)
    replacer.attach()
    assert hooks(model, optimizer) > before[1]
    replacer.attach()
    replacer.detach()
    assert (set(vars(optimizer)), hooks(model, optimizer)) == before
    assert [(set(vars(m)), vars(m).get("_forward_pre_hooks_with_kwargs")) for m in model.modules()] == attributes


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_rate_of_zero_trains_bit_for_bit_like_no_engine(kind):
    runs = []
    for treated in (False, True):
        model = convnet()
        model.insert(3, nn.Dropout(0.2))
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
        if treated:
            replacer = replacer_for(model, optimizer, torch.randn(3, 2, 4, 4), replacement_rate=0.0).attach()
        torch.manual_seed(5)
        train(model, optimizer, [(torch.randn(10, 2, 4, 4), torch.arange(10) % 3) for _ in range(10)])
        runs.append((snapshot(model), optimizer.state_dict(), torch.get_rng_state()))
    assert replacer.ages[0].step == 10
    assert same(*runs)


def test_the_engine_never_draws_from_the_global_generator():
    model = mlp()
    optimizer = sgd(model)
    with replacer_for(model, optimizer):
        before = torch.get_rng_state()
        train(model, optimizer, data(12))
        assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------------ being observed


def test_events_say_what_was_replaced_when():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    events = []
    replacer.listeners.append(events.append)
    for batch in data(12):
        born = [ages.born.clone() for ages in replacer.ages]
        count = len(events)
        train(model, optimizer, [batch])
        for event in events[count:]:
            i = [g.name for g in replacer.groups].index(event.group)
            assert event.step == replacer.ages[i].step
            assert replacer.ages[i].born[list(event.units)].eq(event.step).all()
            assert list(event.ages) == (event.step - born[i][list(event.units)]).tolist()
            assert sorted(event.scores) == list(event.scores)
    assert sum(len(event.units) for event in events) == sum(ages.replaced for ages in replacer.ages) > 0
    assert pickle.loads(pickle.dumps(events)) == events  # noqa: S301


def test_scalars_tell_how_far_each_group_is():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer, maturity_threshold=5).attach()
    train(model, optimizer, data(4))
    state = replacer.generator.get_state()
    values = replacer.metrics()
    assert torch.equal(state, replacer.generator.get_state())
    assert {k: values[f"{k}/2"] for k in ("replaced", "mature_fraction", "steps_until_possible")} == {
        "replaced": 0,
        "mature_fraction": 0.0,
        "steps_until_possible": 2,
    }
    assert 0 < values["utility_low/0"] < values["utility_median/0"] < values["utility_high/0"]
    train(model, optimizer, data(4))
    values = replacer.metrics()
    assert values["replaced/2"] == replacer.ages[1].replaced == 2
    assert values["steps_until_possible/2"] == 0
    assert values["mature_fraction/2"] == pytest.approx(14 / 16)


@pytest.mark.parametrize(("maturity_threshold", "expected"), [(0, 96), (98, 96), (99, 96), (100, 196)])
def test_steps_until_a_replacement_is_possible_end_at_a_step_at_which_units_are_chosen(maturity_threshold, expected):
    ages = Ages(4)
    for _ in range(4):
        ages.advance()
    group = SimpleNamespace(name="0", size=4)
    values = age_scalars(group, ages, LowestMature(maturity_threshold=maturity_threshold), every_n_steps=100)
    assert values["steps_until_possible/0"] == expected


def test_the_plan_lists_expected_replacements_and_what_is_left_alone():
    model = mlp()
    units = discover_units(model, torch.randn(2, 6)).select(exclude=["2"])
    replacer = UnitReplacer(continual_backprop(1e-3, 100), units, sgd(model))
    lines = replacer.plan(units.skipped).splitlines()
    assert lines[:2] == ["group  units  per 1000 steps  from age", "0         16              16       101"]
    assert "skipped 2: left out by include / exclude" in lines


# ------------------------------------------------------------------------------------------------------------- compiled


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("part", ["whole", "submodule"])
@pytest.mark.usefixtures("compiler")
def test_a_compiled_model_reports_the_same_statistics_in_one_graph_without_recompilation(part):
    frames = []

    def backend(graph, inputs):
        frames.append(graph)
        return graph.forward

    states = []
    for compiled in (False, True):
        model = mlp()
        net = nn.ModuleDict({"body": model[:4], "head": model[4]})

        class Net(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net["head"](self.net["body"](x))

        module = Net(net)
        optimizer = sgd(module)
        replacer = replacer_for(module, optimizer).attach()
        called = module
        if compiled and part == "whole":
            called = torch.compile(module, backend=backend, fullgraph=True)
        elif compiled:
            module.net["body"].compile(backend=backend, fullgraph=True)
        for fit in range(2):
            train(called, optimizer, data(8))
            if fit == 0:
                graphs = len(frames)
                replacer.detach()
                replacer.attach()
        states.append((snapshot(module), replacer.state_dict()))
        assert replacer.ages[0].replaced > 0
    assert graphs == 1
    assert torch.allclose(states[0][0]["net.body.0.weight"], states[1][0]["net.body.0.weight"], rtol=1e-5)
    for name in ("net.body.0", "net.body.2"):
        left, right = (state[1]["groups"][name] for state in states)
        assert same(left["ages"], right["ages"])
        assert torch.allclose(left["memory"]["utility"], right["memory"]["utility"], rtol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of the compiler
@pytest.mark.usefixtures("compiler")
def test_gradients_are_read_from_a_compiled_model_too():
    states = []
    for compiled in (False, True):
        model = mlp()
        optimizer = sgd(model)
        gradual = replace(method(), utility=GradientUtility())
        replacer = UnitReplacer(gradual, discover_units(model, torch.randn(2, 6)), optimizer, seed=7).attach()
        train(torch.compile(model, backend="aot_eager") if compiled else model, optimizer, data(8))
        states.append(replacer.state_dict()["groups"])
        assert replacer.ages[0].replaced > 0
    for name, group in states[0].items():
        assert same(group["ages"], states[1][name]["ages"])
        assert torch.allclose(group["memory"]["utility"], states[1][name]["memory"]["utility"], rtol=1e-4)


def test_a_gradient_that_is_not_finite_does_not_spoil_what_was_learnt_of_a_unit():
    model = mlp()
    optimizer = sgd(model)
    gradual = replace(method(), utility=GradientUtility())
    replacer = UnitReplacer(gradual, discover_units(model, torch.randn(2, 6)), optimizer, seed=7).attach()
    train(model, optimizer, data(8))
    (model(data(1)[0][0]).sum() * torch.inf).backward()  # a scaler would skip the step of this loss
    train(model, optimizer, data(1))
    assert replacer.memory.flat["utility"].isfinite().all()


@pytest.mark.usefixtures("compiler")
def test_a_model_compiled_before_the_engine_was_attached_is_reported():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer)
    compiled = torch.compile(model, backend="eager")
    train(compiled, optimizer, data(1))
    replacer.attach()
    train(compiled, optimizer, data(PATIENCE - 1))
    with pytest.raises(
        UnsupportedModelError, match=r"no statistics from '2' in 10 steps.*its hooks do not run.*before"
    ):
        train(compiled, optimizer, data(1))


def test_a_model_trained_in_evaluation_mode_is_reported():
    model = mlp()
    optimizer = sgd(model)
    replacer_for(model, optimizer).attach()
    model.eval()
    with pytest.raises(UnsupportedModelError, match=r"'2' in 10 steps.*it is in evaluation mode.*Call train\(\)"):
        train(model, optimizer, data(PATIENCE))


def test_a_part_trained_in_evaluation_mode_is_warned_about_once():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    model[4].eval()
    with pytest.warns(UserWarning, match=r"no statistics from '4'"):
        train(model, optimizer, data(PATIENCE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, data(PATIENCE))
    assert replacer.ages[0].replaced > 0


@pytest.mark.parametrize("optimizer", [None, "sgd", torch.optim.SGD, [None]])
def test_what_is_no_optimizer_is_refused(optimizer):
    model = mlp()
    units = discover_units(model, torch.randn(2, model[0].in_features))
    with pytest.raises(InvalidArgumentError, match=r"an optimizer of type.*torch.optim.Optimizer.*Build one"):
        UnitReplacer(continual_backprop(), units, optimizer)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    model = mlp()
    units = discover_units(model, torch.randn(2, model[0].in_features))
    with pytest.raises(InvalidArgumentError, match=r"seed=.*a whole number"):
        UnitReplacer(continual_backprop(), units, sgd(model), seed=seed)


def test_a_layer_exchanged_under_a_running_engine_is_refused_at_the_next_step_and_the_remedy_goes_on():
    model = mlp()
    units = discover_units(model, torch.randn(2, 6))
    old = UnitReplacer(method(), units, sgd(model), seed=7).attach()
    train(model, old.optimizers[0], data(6))
    model[4] = nn.Linear(16, 3)
    optimizer = sgd(model)
    with pytest.raises(StateMismatchError, match=r"\['4.weight'\], which is no.*`units = units.update\(model\)`.*anew"):
        train(model, old.optimizers[0], data(1))
    with pytest.raises(StateMismatchError, match=r"\['4.weight'\]"):
        old.attach()
    new = UnitReplacer(method(), units.update(model), optimizer, seed=7)
    new.carry_over(old.state_dict())
    assert [ages.step for ages in new.ages] == [ages.step for ages in old.ages] == [6, 6]
    with new:
        train(model, optimizer, data(6))
    assert new.groups[1].outgoing[0].tensor is model[4].weight
    assert new.ages[1].replaced > old.ages[1].replaced


def test_a_model_that_runs_on_without_a_step_of_the_known_optimizer_is_warned_about_once():
    model = mlp()
    replacer = replacer_for(model, sgd(model)).attach()
    x = torch.ones(1, 6)
    for _ in range(2 * MOST_PASSES):  # neither in evaluation mode nor without gradients is anything learned
        model.eval()
        model(x)
        model.train()
        with torch.no_grad():
            model(x)
    batches = [(x, torch.zeros(1, dtype=torch.long))] * (MOST_PASSES + 1)
    another = sgd(model)
    with pytest.warns(UserWarning, match=r"1000 forward passes.*`replacer.use\(optimizer\)`.*`torch.no_grad\(\)`"):
        train(model, another, batches)
    train(model, another, batches)  # warnings are errors here
    replacer.detach()
    replacer.use(another)
    with replacer:
        train(model, another, data(6))
    assert all(ages.replaced for ages in replacer.ages)


@pytest.mark.parametrize("computed", ["pruned", "parametrized"])
def test_a_weight_that_is_computed_since_it_was_found_is_refused_at_the_next_step(computed):
    model = mlp()
    optimizer = sgd(model)
    replacer_for(model, optimizer).attach()
    if computed == "pruned":
        prune.l1_unstructured(model[2], "weight", amount=0.5)
    else:
        parametrizations.weight_norm(model[2])
    with pytest.raises(StateMismatchError, match=r"'2.weight' is gone.*Run `discover_units"):
        train(model, optimizer, data(1))


def test_weights_that_were_exchanged_are_followed_if_an_optimizer_has_them_and_refused_if_not():
    model = mlp()
    optimizer = sgd(model)
    replacer = replacer_for(model, optimizer).attach()
    model[4].weight = nn.Parameter(torch.randn(3, 16))
    optimizer.add_param_group({"params": [model[4].weight]})
    train(model, optimizer, data(6))
    assert replacer.groups[1].outgoing[0].tensor is model[4].weight
    model.load_state_dict(snapshot(model), assign=True)
    with pytest.raises(UnsupportedModelError, match=r"'0': 'its incoming weights belong to no optimizer'.*not trained"):
        train(model, optimizer, data(1))


class Heads(nn.Module):
    """A body and a head for every task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(2)])
        self.task = 0

    def forward(self, x):
        return self.heads[self.task](self.body(x))

    def all(self, x):
        return [head(self.body(x)) for head in self.heads]


def test_a_head_that_did_not_run_on_the_example_is_warned_about_when_it_trains():
    model, x = Heads(), torch.randn(2, 6)
    units, optimizer = discover_units(model, x), sgd(model)
    assert units.idle == units.update(model).idle == ("heads.1",)
    with UnitReplacer(method(), units, optimizer):
        train(model, optimizer, data(2))
        model.task = 1
        with torch.no_grad():
            model(x)
        model.eval()(x)
        model.train()
        with pytest.warns(UserWarning, match=r"'heads\.1' runs, but did not on the example.*every branch.*function"):
            train(model, optimizer, data(1))
        train(model, optimizer, data(1))  # warnings are errors here
    assert not hooks(model, optimizer)


def test_no_head_is_warned_about_if_all_of_them_ran_on_the_example():
    model, x = Heads(), torch.randn(2, 6)
    units, optimizer = discover_units(model, lambda: model.all(x)), sgd(model)
    assert units.idle == ()
    assert [slot.path for slot in units["body.0"].outgoing] == ["heads.0.weight", "heads.1.weight"]
    with UnitReplacer(method(), units, optimizer):
        for task in (0, 1):
            model.task = task
            train(model, optimizer, data(3))
