"""A small network, a small stream and a quiet Trainer, for tests of callbacks that follow a stream."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_plasticity.streams import StreamDataModule


class Network(pl.LightningModule):
    """Two layers and a batch norm; writes its tensors down at the beginning of every epoch's first batch."""

    def __init__(self, optimizer=torch.optim.SGD, scheduler=None, **settings):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        self.optimizer, self.scheduler, self.settings = optimizer, scheduler, {"lr": 0.1} | settings
        self.at_start, self.rates, self.scores = [], [], None

    def snapshot(self):
        return {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.at_start.append(self.snapshot())
            self.rates.append(float(self.trainer.optimizers[0].param_groups[0]["lr"]))
        if self.scores is not None:
            self.log("score", self.scores[self.trainer.current_epoch], on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = self.optimizer(self.net.parameters(), **self.settings)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


def stream(experiences=3, epochs=2):
    generator = torch.Generator().manual_seed(0)
    datasets = [
        TensorDataset(torch.randn(8, 3, generator=generator), torch.randint(2, (8,), generator=generator))
        for _ in range(experiences)
    ]
    return StreamDataModule(datasets, epochs, batch_size=4, seed=0)


class Saver(pl.Callback):
    """Saves every epoch, where ``ModelCheckpoint`` would; without a state that a resumed run would have to match."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def fit(module, *callbacks, datamodule=None, ckpt_path=None, **data):
    datamodule = stream() if datamodule is None and not data else datamodule
    trainer = pl.Trainer(
        max_epochs=6,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, **data)
    return module
