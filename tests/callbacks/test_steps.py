"""A clock that strikes once for every period of steps, whatever the steps at which it is asked."""

from types import SimpleNamespace

import pytest

from lightning_plasticity.callbacks.steps import LogClock


def strikes(steps, period, start=0):
    trainer, clock, heard = SimpleNamespace(global_step=start, log_every_n_steps=period), LogClock(), []
    clock.start(trainer)
    for trainer.global_step in steps:
        if clock.strikes(trainer):
            heard.append(trainer.global_step)
    return heard


@pytest.mark.parametrize(
    ("steps", "heard"),
    [
        (range(1, 10), [4, 8]),
        ([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [4]),  # two batches per step
        (range(3, 16, 3), [6, 9, 12]),  # three optimizers
        ([2, 13, 14, 16], [13, 16]),
    ],
)
def test_it_strikes_when_steps_have_passed_a_multiple_of_the_period(steps, heard):
    assert strikes(steps, 4) == heard


def test_it_counts_from_where_it_started_and_a_period_of_zero_never_ends():
    assert strikes(range(6, 9), 4, start=5) == [8]
    assert strikes(range(1, 9), 0) == []
