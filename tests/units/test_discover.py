"""What is asked of discovery and what it answers; the models themselves are in the zoo."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_plasticity.errors import UnsupportedModelError
from lightning_plasticity.units import discover_units, verify_units


class Residual(nn.Module):
    """A stream of 6 units that one block adds to, with an inner layer of 5."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.embed, self.norm, self.inner = nn.Linear(4, 6), norm or nn.Identity(), nn.Linear(6, 5)
        self.outer, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.outer(self.inner(self.norm(x)).relu()))


def names(units):
    return [group.name for group in units]


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "callable", "callable that makes its inputs"])
def test_every_form_of_example_gives_the_same_groups(form):
    model, x = Residual(), torch.randn(3, 4)
    example = {
        "tensor": x,
        "tuple": (x,),
        "dict": {"x": x},
        "callable": lambda: {"loss": model(x).mean()},
        "callable that makes its inputs": lambda: model(torch.randn(3, 4)),
    }[form]
    assert names(discover_units(model, example)) == ["inner"]


def test_residual_streams_are_groups_on_request_under_their_own_names():
    model, x = Residual(), torch.randn(3, 4)
    units = discover_units(model, x, residual="group")
    assert names(units) == ["embed", "inner"]
    assert units["embed"].residual
    assert not units["inner"].residual
    (stream,) = (skip for skip in discover_units(model, x).skipped if skip.layer == "embed")
    assert "residual stream" in stream.reason
    assert "residual='group'" in stream.remedy


class Gated(nn.Module):
    """Hidden units, and a block that reads them and writes the same ones, with a gate."""

    def __init__(self, combine) -> None:
        super().__init__()
        self.combine, self.embed, self.head = combine, nn.Linear(4, 5), nn.Linear(5, 2)
        self.block, self.gate = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.combine(x, self.block(x).relu(), self.gate(x).sigmoid()))


STREAMS = {
    "x + f": lambda x, f, g: x + f,
    "x + g * f": lambda x, f, g: x + g * f,
    "highway": lambda x, f, g: g * f + (1 - g) * x,
    "highway, the other way round": lambda x, f, g: x * (1 - g) + f * g,
    "x + g * (f - x)": lambda x, f, g: x + g * (f - x),
    "lerp": lambda x, f, g: torch.lerp(x, f, g),
}
NO_STREAMS = {
    "x * g": lambda x, f, g: x * g,
    "x + x * g": lambda x, f, g: x + x * g,
    "g * x + x": lambda x, f, g: g * x + x,
    "x * (1 + g)": lambda x, f, g: x * (1 + g),
    "g * (x - x ** 3)": lambda x, f, g: g * (x - x**3),
}


@pytest.mark.parametrize("combine", STREAMS | NO_STREAMS)
def test_a_stream_is_what_layers_add_to_and_not_what_a_gate_scales(combine):
    model, x = Gated((STREAMS | NO_STREAMS)[combine]), torch.randn(3, 4)
    units = discover_units(model, x, residual="group")
    assert [group.residual for group in units] == [combine in STREAMS]
    assert verify_units(model, x, units)


def test_units_behind_a_norm_are_coupled_or_refused():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(3, 4)
    assert discover_units(model, x)["0"].coupled
    strict = discover_units(model, x, through_norms=False)
    assert len(strict) == 0
    (skip,) = (skip for skip in strict.skipped if skip.layer == "0")
    assert "normalisation layer" in skip.reason
    assert skip.remedy == "Pass through_norms=True"


def test_one_example_is_enough_and_values_do_not_matter():
    model = Residual(nn.BatchNorm1d(6))
    for example in (torch.randn(1, 4), torch.zeros(3, 4), torch.full((3, 4), float("nan"))):
        assert names(discover_units(model, example)) == ["inner"]


def test_names_and_order_are_the_same_in_every_run_and_copy():
    model, x = Residual(), torch.randn(3, 4)
    first, again = (discover_units(m, x, residual="group") for m in (model, copy.deepcopy(model)))
    assert first.summary() == again.summary()
    for group, other in zip(first, again, strict=True):
        assert [slot.path for slot in group.slots] == [slot.path for slot in other.slots]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_gives_the_same_groups(dtype):
    assert names(discover_units(Residual().to(dtype), torch.randn(3, 4, dtype=dtype))) == ["inner"]


def test_a_model_without_hidden_units_gives_an_empty_map_with_reasons():
    units = discover_units(nn.Linear(4, 2), torch.randn(3, 4))
    assert len(units) == 0
    assert [skip.reason for skip in units.skipped] == ["it reaches the output of the model"]


def test_a_model_that_fails_on_the_example_is_refused_with_its_own_error_as_the_cause():
    message = (
        r"failed on the example in evaluation mode, in layer 'embed': RuntimeError: .*shapes.*"
        r"Expected: an example that the model can be run on.*Remedy: Pass other `example_inputs`"
    )
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        discover_units(Residual(), torch.randn(3, 5))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_outside_of_all_layers_says_so():
    def fail():
        raise KeyError("x")

    with pytest.raises(UnsupportedModelError, match=r"in evaluation mode, outside of its layers: KeyError: 'x'"):
        discover_units(Residual(), fail)


class Past(nn.Module):
    """A model whose forward pass goes past its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x)


STRANGERS = {
    "another model": lambda model, twin: lambda: nn.Linear(4, 2)(torch.randn(3, 4)),
    "a copy": lambda model, twin: lambda: twin(torch.randn(3, 4)),
    "other weights": lambda model, twin: (
        lambda: torch.func.functional_call(model, dict(twin.named_parameters()), torch.randn(3, 4))
    ),
    "no model": lambda model, twin: lambda: torch.randn(3, 2),
    "nothing": lambda model, twin: lambda: None,
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_function_that_runs_something_else_is_refused(what):
    model = Residual()
    message = (
        r"none of the 8 parameters of Residual was used: embed, inner, outer, head did not run.*"
        r"Expected: a run of the model itself.*Remedy: If `example_inputs` is a function"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        discover_units(model, STRANGERS[what](model, copy.deepcopy(model)))


def test_a_forward_pass_that_goes_past_all_layers_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"none of the 2 parameters of Past.*why `forward` goes past"):
        discover_units(Past(), torch.randn(3, 4))


def test_a_function_that_uses_one_weight_is_a_run_of_the_model():
    model = Residual()
    for use in (lambda: nn.functional.linear(torch.randn(3, 4), model.embed.weight), lambda: model.embed.weight * 2):
        units = discover_units(model, use)
        assert {skip.layer for skip in units.skipped} >= {"inner", "outer", "head"}


def test_a_model_without_weights_has_an_empty_map():
    assert len(discover_units(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(3, 4)).skipped) == 0


def test_readers_are_found_by_what_is_computed_and_not_by_the_order_in_which_layers_are_listed():
    class Backwards(nn.Module):
        """Layers of one size, listed from the last to the first, and one that is never used."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.unused, self.middle, self.first = (nn.Linear(5, 5) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x).relu()).relu())

    units = discover_units(Backwards(), torch.randn(3, 5))
    readers = {group.name: [slot.path for slot in group.outgoing] for group in units}
    assert readers == {"first": ["middle.weight"], "middle": ["last.weight"]}
    assert {"last", "unused"} <= {skip.layer for skip in units.skipped}


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_the_model_runs_with_the_default_device_of_the_user(default):
    found = []

    class Asking(Residual):
        def forward(self, x: Tensor) -> Tensor:
            found.append(torch.zeros(()).device.type)
            return super().forward(x)

    model, x = Asking(), torch.randn(3, 4)
    with torch.device(default):
        assert names(discover_units(model, x)) == ["inner"]
        assert torch.zeros(()).device.type == default
    assert set(found) == {default}


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.RNNCell, None])
def test_a_weight_that_met_only_a_first_state_of_zeros_has_no_units(cell):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.read = nn.Linear(4, 6), nn.Linear(6, 2)
            self.state = nn.Linear(6, 6) if cell is None else cell(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = torch.zeros(len(x), 6)
            for now in x.unbind(1):
                new = self.enter(now)
                state = torch.tanh(new + self.state(state)) if cell is None else self.state(new.relu(), state)
            return self.read(state)

    steps = {n: discover_units(Recurrent(), torch.randn(3, n, 4)) for n in (1, 4)}
    expected = [] if cell is None else [("enter", 6)]
    assert [[(group.name, group.size) for group in units] for units in steps.values()] == [expected, expected]
    reasons = [skip.reason for skip in steps[1].skipped if skip.layer == "state"]
    assert any(("met only zeros" if cell is None else "recurrent") in reason for reason in reasons)
