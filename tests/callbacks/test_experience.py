import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_plasticity.callbacks.experience import experience_begins, experience_ends, stream_of
from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.streams import StreamDataModule


class Diary(pl.Callback):
    def __init__(self, folder):
        self.folder, self.entries = folder, []

    def on_train_epoch_start(self, trainer, pl_module):
        self.entries.append((stream_of(trainer).current_experience, experience_begins(trainer)))

    def on_train_epoch_end(self, trainer, pl_module):
        self.entries.append((stream_of(trainer).current_experience, experience_ends(trainer)))
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, datamodule, ckpt_path=None, **limits):
    diary = Diary(folder)
    trainer = pl.Trainer(
        max_epochs=datamodule.num_epochs,
        callbacks=[diary],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        **limits,
    )
    trainer.fit(Classifier(), datamodule=datamodule, ckpt_path=ckpt_path)
    return diary.entries


def datamodule():
    stream = [TensorDataset(torch.ones(2, 2), torch.tensor([0, 1])) for _ in range(3)]
    return StreamDataModule(stream, epochs_per_experience=2)


def test_beginnings_and_ends_are_told_once_per_experience(tmp_path):
    expected = [(k, told) for k in range(3) for told in (True, False, False, True)]
    assert fit(tmp_path, datamodule()) == expected


@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_tells_what_an_uninterrupted_one_would(tmp_path, epoch):
    whole = fit(tmp_path, datamodule())
    resumed = fit(tmp_path, datamodule(), ckpt_path=tmp_path / f"{epoch}.ckpt")
    assert resumed == whole[2 * (epoch + 1) :]


@pytest.mark.parametrize(("batches", "ended"), [(1, False), (2, True)])
def test_an_experience_that_was_cut_short_has_not_ended(tmp_path, batches, ended):
    stream = [TensorDataset(torch.ones(2, 2), torch.tensor([0, 1])) for _ in range(3)]
    data = StreamDataModule(stream, batch_size=1)
    assert fit(tmp_path, data, max_steps=2 + batches)[-1] == (1, ended)


def test_limited_batches_are_a_whole_epoch(tmp_path):
    stream = [TensorDataset(torch.ones(4, 2), torch.tensor([0, 1, 0, 1])) for _ in range(6)]
    entries = fit(tmp_path, StreamDataModule(stream, batch_size=1), limit_train_batches=2)
    assert entries[1::2] == [(k, True) for k in range(6)]


def test_a_fit_without_a_stream_is_refused(tmp_path):
    loader = torch.utils.data.DataLoader(TensorDataset(torch.ones(2, 2), torch.tensor([0, 1])))
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[Diary(tmp_path)],
        logger=False,
        enable_progress_bar=False,
        accelerator="cpu",
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with pytest.raises(InvalidArgumentError, match=r"datamodule is a NoneType.*StreamDataModule\(\.\.\.\)"):
        trainer.fit(Classifier(), loader)
