"""Trainers and strategies that are refused by name."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    SingleDeviceXLAStrategy,
    XLAStrategy,
)

from lightning_plasticity.callbacks import ContinualBackprop
from lightning_plasticity.callbacks.guards import check_trainer
from lightning_plasticity.errors import UnsupportedStrategyError


@pytest.mark.parametrize(
    "strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy]
)
def test_strategies_that_shard_parameters_or_were_never_tried_are_refused_by_name(strategy):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer._accelerator_connector.strategy = strategy.__new__(strategy)
    with pytest.raises(
        UnsupportedStrategyError, match=rf"ContinualBackprop with the strategy {strategy.__name__}.*ddp"
    ):
        check_trainer(ContinualBackprop(), trainer)


@pytest.mark.parametrize("strategy", [DDPStrategy(), SingleDeviceStrategy()])
def test_strategies_with_whole_parameters_are_accepted(strategy):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer._accelerator_connector.strategy = strategy
    check_trainer(ContinualBackprop(), trainer)


def test_a_trainer_of_the_other_package_is_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pytest.importorskip("pytorch_lightning")
        from pytorch_lightning.demos.boring_classes import BoringModel

        options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
        trainer = other.Trainer(callbacks=[ContinualBackprop()], default_root_dir=tmp_path, **options)
        with pytest.raises(
            UnsupportedStrategyError, match=r"package 'pytorch_lightning'.*`import lightning.pytorch as"
        ):
            trainer.fit(BoringModel())


def test_an_object_that_is_no_trainer_is_refused():
    with pytest.raises(UnsupportedStrategyError, match=r"a Trainer of the package 'types'"):
        check_trainer(ContinualBackprop(), SimpleNamespace())
