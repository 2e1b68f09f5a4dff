from functools import partial

import pytest
import torch
from support.stream_runs import Network, Saver, fit
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.schedule_restart import ScheduleRestart
from lightning_plasticity.errors import InvalidArgumentError


def warm_up(optimizer):
    schedulers = [LinearLR(optimizer, 0.5, total_iters=1), StepLR(optimizer, 1, 0.1)]
    return SequentialLR(optimizer, schedulers, milestones=[1])


SCHEDULERS = {
    "step": partial(StepLR, step_size=1, gamma=0.5),
    "multi-step": partial(MultiStepLR, milestones=[1], gamma=0.2),
    "cosine": partial(CosineAnnealingLR, T_max=2),
    "sequential": warm_up,
}


@pytest.mark.filterwarnings("ignore:.*epoch parameter in .scheduler.step.*:UserWarning")
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("tensor_rate", [False, True])
def test_every_experience_sees_the_rates_of_the_first(scheduler, tensor_rate):
    rate = torch.tensor(0.1) if tensor_rate else 0.1
    rates = fit(Network(scheduler=scheduler, lr=rate, foreach=False), ScheduleRestart()).rates
    assert rates[:2] == rates[2:4] == rates[4:]
    assert len(set(rates)) == 2
    unrestarted = fit(Network(scheduler=scheduler)).rates
    assert unrestarted[2:4] != unrestarted[:2]


@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_restarts_from_the_same_beginning(tmp_path, epoch):
    scheduler = SCHEDULERS["step"]
    whole = fit(Network(scheduler=scheduler), ScheduleRestart(), Saver(tmp_path))
    resumed = fit(Network(scheduler=scheduler), ScheduleRestart(), ckpt_path=tmp_path / f"{epoch}.ckpt")
    assert resumed.rates == whole.rates[epoch + 1 :]
    assert all(torch.equal(whole.snapshot()[name], resumed.snapshot()[name]) for name in whole.snapshot())


def test_a_module_without_a_scheduler_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"Network\.configure_optimizers returns no scheduler"):
        fit(Network(), ScheduleRestart())


def test_a_fit_without_a_stream_is_refused():
    loader = DataLoader(TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    with pytest.raises(InvalidArgumentError, match="StreamDataModule"):
        fit(Network(scheduler=SCHEDULERS["step"]), ScheduleRestart(), train_dataloaders=loader)
