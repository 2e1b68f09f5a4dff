from contextlib import nullcontext

import lightning.pytorch as pl
import pytest
import torch
from support.stream_runs import Network, stream

from lightning_plasticity.callbacks import ContinualBackprop
from lightning_plasticity.experiments import ExperienceRows, ResultTable, fit_resumable


class Stopped(Exception):
    pass


class StopIn(pl.Callback):
    """Ends a fit in the middle of an epoch, as an error would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.current_epoch == self.epoch:
            raise Stopped


def run(folder, *callbacks, **limits):
    torch.manual_seed(0)
    module = Network(torch.optim.Adam)
    module.example_input_array = torch.zeros(2, 3)
    module.forward = module.net.forward
    table = ResultTable(folder / "rows.csv", key=("seed", "experience"))
    rows = ExperienceRows(table, {"seed": 0}, lambda module: {"weight": float(module.net[0].weight.sum())})
    replacement = ContinualBackprop(replacement_rate=0.2, maturity_threshold=2, seed=0)
    fit_resumable(module, stream(), folder, callbacks=[replacement, rows, *callbacks], accelerator="cpu", **limits)
    return module.snapshot(), table


def test_one_row_is_written_per_experience(tmp_path):
    _, table = run(tmp_path)
    rows = table.rows()
    assert [row["experience"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0]) == ["seed", "experience", "weight", "commit", "command"]
    assert len({row["weight"] for row in rows}) == 3


@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_a_run_that_broke_off_ends_with_the_numbers_of_one_that_did_not(tmp_path, epoch):
    expected, whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "broken", StopIn(epoch))
    weights, table = run(tmp_path / "broken")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [row["weight"] for row in table.rows()] == [row["weight"] for row in whole.rows()]


@pytest.mark.parametrize("steps", [1, 6, 7, 12])
def test_a_run_of_limited_steps_goes_on_without_the_limit(tmp_path, steps):
    expected, whole = run(tmp_path / "whole")
    warned = (
        pytest.warns(UserWarning, match="ended the run before its first experience") if steps < 4 else nullcontext()
    )
    with warned:
        _, first = run(tmp_path / "limited", max_steps=steps)
    assert len(first.rows()) == steps // 4  # two epochs of two steps each; an unfinished experience leaves no row
    weights, table = run(tmp_path / "limited")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [row["weight"] for row in table.rows()] == [row["weight"] for row in whole.rows()]


def test_a_finished_run_is_not_repeated(tmp_path):
    expected, _ = run(tmp_path)
    weights, table = run(tmp_path, StopIn(0))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert len(table.rows()) == 3
