from pathlib import Path

import pytest

from lightning_plasticity.experiments import experiment_arguments

FULL = {"tasks": 800, "samples": None, "rate": 1e-6}
FAST = {"tasks": 20, "samples": 100, "rate": 1e-3}


def parsed(*words, **keywords):
    return experiment_arguments("x", methods=["a", "b"], full=FULL, fast=FAST, arguments=words, **keywords)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (800, None, 1e-6)),
        (("--fast",), (20, 100, 1e-3)),
        (("--fast", "--rate", "0.5", "--samples", "7"), (20, 7, 0.5)),
        (("--tasks", "3"), (3, None, 1e-6)),
    ],
)
def test_settings_come_from_the_protocol_unless_given(words, expected):
    arguments = parsed(*words)
    assert (arguments.tasks, arguments.samples, arguments.rate) == expected


def test_methods_seeds_and_texts_have_defaults_of_the_experiment():
    arguments = parsed(by_default=["b"], seeds=[4], more={"images": "birds"})
    assert (arguments.method, arguments.seeds, arguments.images) == (["b"], [4], "birds")
    arguments = parsed("--method", "a", "b", "--seeds", "1", "2", "--images", "fish", more={"images": "birds"})
    assert (arguments.method, arguments.seeds, arguments.images) == (["a", "b"], [1, 2], "fish")


def test_what_every_experiment_has_is_off_or_left_to_the_machine():
    arguments = parsed()
    assert (arguments.max_steps, arguments.out, arguments.data_root) == (-1, Path("results"), None)
    assert not any((arguments.fast, arguments.plot, arguments.as_published, arguments.download))


def test_an_unknown_method_is_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("--method", "c")
    assert "invalid choice: 'c'" in capsys.readouterr().err
