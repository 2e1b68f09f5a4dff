"""What was computed from parameters is remembered with everything that went into it, and nothing else."""

from __future__ import annotations

import torch
from support.labelled import Bench
from torch import nn


def model_of(**parameters: torch.Tensor) -> nn.Module:
    model = nn.Module()
    for name, value in parameters.items():
        model.register_parameter(name, nn.Parameter(value))
    return model


def names(steps) -> list[str]:
    return [str(step.func).split(".")[1] for step in steps]


def test_a_slice_holds_the_steps_that_the_tensor_depends_on_in_order():
    model = model_of(a=torch.randn(3), b=torch.randn(3))
    bench = Bench(model)
    other = bench(lambda: model.b.sin())
    made = bench(lambda: (model.a.exp() + 1).cos())
    assert names(bench.run.tape.slice(made)) == ["exp", "add", "cos"]
    assert names(bench.run.tape.slice(other)) == ["sin"]


def test_writing_into_a_part_belongs_to_the_whole():
    model = model_of(a=torch.randn(3), b=torch.randn(2))
    bench = Bench(model)

    def write() -> torch.Tensor:
        made = model.a.exp()
        made[1:].copy_(model.b)
        return made

    made = bench(write)
    assert names(bench.run.tape.slice(made)) == ["exp", "copy_"]
    parts, shape = bench.run.tape.name(made, bench.run.sources)
    assert ([path for path, _ in parts], shape) == (["a", "b"], (3,))


def test_a_slice_can_end_before_what_was_computed_later():
    model = model_of(a=torch.randn(3))
    bench = Bench(model)
    made = bench(lambda: model.a.exp())
    end = len(bench.run.tape.steps)
    bench(made.mul_, 2)
    assert names(bench.run.tape.slice(made, end)) == ["exp"]
    assert names(bench.run.tape.slice(made)) == ["exp", "mul_"]


def test_a_computed_tensor_used_element_by_element_has_the_labels_of_its_entries():
    model = model_of(a=torch.randn(3))
    bench = Bench(model)
    x = bench.data(2, 3)
    bench(lambda: x * model.a.exp())
    entries = bench.run.sources.entries(bench.run.sources.all[0])
    assert torch.equal(bench.labels.find(entries), bench.of(x)[0])
    assert bench.run.sources.all[0].kinds == {"carried"}
