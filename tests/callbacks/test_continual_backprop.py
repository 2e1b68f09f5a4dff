"""The callback of Continual Backprop: a typed constructor in front of the generic one."""

from __future__ import annotations

import pickle  # noqa: S403 - a callback travels to other processes

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from support.training_runs import Classifier, loader, same, snapshot, trainer

from lightning_plasticity.callbacks import ContinualBackprop, UnitReplacement
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.methods import continual_backprop


def test_it_is_unit_replacement_with_the_method_of_the_same_name(tmp_path):
    runs = []
    generic = UnitReplacement(continual_backprop(0.05, 3, 0.9), seed=1)
    for callback in (ContinualBackprop(0.05, 3, 0.9, seed=1), generic):
        module = Classifier()
        trainer(tmp_path, callbacks=[callback]).fit(module, loader())
        assert callback.replacer.ages[0].replaced > 0
        runs.append((snapshot(module), callback.replacer.state_dict()))
    assert same(*runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replacement_rate": 1.5}, r"replacement_rate=1.5.*in \[0, 1\]"),
        ({"replacement_rate": -0.1}, r"replacement_rate=-0.1"),
        ({"replacement_rate": float("nan")}, r"replacement_rate=nan"),
        ({"maturity_threshold": -1}, r"maturity_threshold=-1"),
        ({"maturity_threshold": 1.5}, r"maturity_threshold=1.5"),
        ({"decay_rate": 1.0}, r"decay_rate=1.0.*in \[0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused_by_the_constructor(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ContinualBackprop(**options)


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"'body.\*' in `include` matches no unit group.*'net.0', 'net.2'"):
        trainer(tmp_path, callbacks=[ContinualBackprop(include=["body.*"])]).fit(Classifier(), loader())


def test_include_and_exclude_choose_layers(tmp_path):
    callback = ContinualBackprop(0.05, 3, exclude=["net.2"])
    trainer(tmp_path, callbacks=[callback]).fit(Classifier(), loader())
    assert [group.name for group in callback.replacer.groups] == ["net.0"]


def test_it_survives_pickling_before_training():
    copy = pickle.loads(pickle.dumps(ContinualBackprop(0.01, 7, seed=2)))  # noqa: S301
    assert copy.method == continual_backprop(0.01, 7)
    assert copy.state_key == ContinualBackprop().state_key


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_builds_it_from_its_types(tmp_path):
    class Module(Classifier):
        def __init__(self):
            super().__init__()

    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "default_root_dir": str(tmp_path),
        "callbacks": [
            {
                "class_path": "lightning_plasticity.ContinualBackprop",
                "init_args": {"replacement_rate": 0.002, "include": ["net.*"], "record_events": True},
            }
        ],
    }
    cli = LightningCLI(Module, run=False, save_config_callback=None, args={"trainer": options})
    built = next(each for each in cli.trainer.callbacks if isinstance(each, ContinualBackprop))
    assert built.method == continual_backprop(0.002)
    assert (built.include, built.record_events) == (("net.*",), True)
    assert torch.is_tensor(cli.model.example_input_array)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rate", ["1e-3", "'1e-3'", "0.001"])
def test_the_command_line_reads_a_number_with_an_exponent_from_yaml(tmp_path, rate):
    class Module(Classifier):
        def __init__(self):
            super().__init__()

    config = tmp_path / "config.yaml"
    config.write_text(f"""
        trainer:
          accelerator: cpu
          logger: false
          enable_checkpointing: false
          callbacks:
            - class_path: lightning_plasticity.ContinualBackprop
              init_args: {{replacement_rate: {rate}, overrides: {{"net.0": {{replacement_rate: 1e-2}}}}}}
    """)
    cli = LightningCLI(Module, run=False, save_config_callback=None, args=["--config", str(config)])
    built = next(each for each in cli.trainer.callbacks if isinstance(each, ContinualBackprop))
    assert built.method == continual_backprop(0.001)
    assert built.overrides == {"net.0": continual_backprop(0.01)}


def test_a_rate_that_yaml_has_read_as_a_text_is_refused_with_how_to_write_it():
    with pytest.raises(InvalidArgumentError, match=r"replacement_rate='1e-3'.*in YAML write 0\.001 or 1\.0e-3, where"):
        ContinualBackprop("1e-3")
    with pytest.raises(InvalidArgumentError, match=r"replacement_rate='1e-2'.*in YAML write 0\.01 or 1\.0e-2, where"):
        ContinualBackprop(overrides={"net.0": {"replacement_rate": "1e-2"}})
