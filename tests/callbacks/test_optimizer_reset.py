import lightning.pytorch as pl
import pytest
import torch
from support.stream_runs import Network, Saver, fit
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.optimizer_reset import OptimizerReset
from lightning_plasticity.errors import InvalidArgumentError


class Steps(pl.Callback):
    """Writes down Adam's step count at the end of every epoch."""

    def __init__(self):
        self.counts = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.counts.append({int(state["step"]) for state in trainer.optimizers[0].state.values()})


def test_adam_counts_from_one_again_when_the_experience_changes():
    steps = Steps()
    fit(Network(torch.optim.Adam), OptimizerReset(), steps)
    assert steps.counts == [{2}, {4}] * 3
    steps = Steps()
    fit(Network(torch.optim.Adam), steps)
    assert steps.counts == [{2}, {4}, {6}, {8}, {10}, {12}]


def test_weights_are_left_alone():
    with_reset, without = (fit(Network(), *callbacks).snapshot() for callbacks in ([OptimizerReset()], []))
    assert all(torch.equal(with_reset[name], without[name]) for name in without)  # plain SGD has nothing to forget


@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, epoch):
    whole = fit(Network(torch.optim.Adam), OptimizerReset(), Saver(tmp_path)).snapshot()
    resumed = fit(Network(torch.optim.Adam), OptimizerReset(), ckpt_path=tmp_path / f"{epoch}.ckpt").snapshot()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_fit_without_a_stream_is_refused():
    loader = DataLoader(TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    with pytest.raises(InvalidArgumentError, match="StreamDataModule"):
        fit(Network(), OptimizerReset(), train_dataloaders=loader)
