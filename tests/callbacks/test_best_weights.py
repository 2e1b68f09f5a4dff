import lightning.pytorch as pl
import pytest
import torch
from support.stream_runs import Network, Saver, fit, stream
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.best_weights import BestWeights
from lightning_plasticity.errors import InvalidArgumentError


class AtEnd(pl.Callback):
    """Writes down the tensors at the end of every epoch; listed before the callback under test."""

    def __init__(self):
        self.tensors = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.tensors.append(pl_module.snapshot())


def scored(*scores):
    module = Network(torch.optim.Adam)
    module.scores = scores
    return module


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", (1.0, 3.0, 2.0, 5.0, 5.0, 4.0), (1, 3)),
        ("min", (1.0, 3.0, 2.0, 5.0, 5.0, 4.0), (0, 5)),
        ("max", (2.0, 2.0, 2.0, 9.0, 1.0, 1.0), (0, 3)),  # the earliest among equals
        ("max", (float("nan"), 1.0, 0.0, 2.0, 1.0, float("nan")), (1, 3)),
    ],
)
def test_the_next_experience_begins_with_the_best_weights_of_the_last(mode, scores, best):
    end, module = AtEnd(), scored(*scores)
    fit(module, end, BestWeights("score", mode), datamodule=stream(experiences=2, epochs=3))
    assert equal(module.at_start[3], end.tensors[best[0]])
    assert equal(module.snapshot(), end.tensors[best[1]])
    assert equal(module.at_start[1], end.tensors[0])  # nothing happens within an experience


def test_an_experience_without_a_best_keeps_its_last_weights():
    end, module = AtEnd(), scored(*[float("nan")] * 6)
    fit(module, end, BestWeights("score"))
    assert all(equal(module.at_start[epoch], end.tensors[epoch - 1]) for epoch in range(1, 6))


@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, epoch):
    scores = (5.0, 3.0, 2.0, 5.0, 7.0, 4.0)
    data = {"datamodule": stream(experiences=2, epochs=3)}
    whole = fit(scored(*scores), BestWeights("score"), Saver(tmp_path), **data)
    resumed = fit(scored(*scores), BestWeights("score"), ckpt_path=tmp_path / f"{epoch}.ckpt", **data)
    assert equal(whole.snapshot(), resumed.snapshot())


def test_a_value_that_is_not_logged_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"no logged value 'accuracy', but \['score'\]"):
        fit(scored(*[1.0] * 6), BestWeights("accuracy"))


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"`mode='best'`.*'max' or 'min'"):
        BestWeights("score", "best")


def test_a_fit_without_a_stream_is_refused():
    loader = DataLoader(TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    with pytest.raises(InvalidArgumentError, match="StreamDataModule"):
        fit(Network(), BestWeights("score"), train_dataloaders=loader)
