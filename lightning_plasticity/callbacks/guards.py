"""What every callback of this library asks of the Trainer before it starts."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
)
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.strategies.xla import XLAStrategy

from lightning_plasticity.errors import UnsupportedModelError, UnsupportedStrategyError

_SERVED = (SingleDeviceStrategy, DDPStrategy)
_UNTESTED = (DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy)  # to Lightning they are kinds of those served


def check_trainer(callback: pl.Callback, trainer: object) -> None:
    """Refuse a Trainer of the other package, and strategies that shard or hide the parameters.

    Args:
        callback: The callback that asks; named in the message.
        trainer: What called its hook.

    Raises:
        UnsupportedStrategyError: If the Trainer cannot be served.
    """
    name = type(callback).__name__
    if not isinstance(trainer, pl.Trainer):
        module = type(trainer).__module__.partition(".")[0]
        raise UnsupportedStrategyError(
            f"{name} in a Trainer of the package {module!r}",
            "a `lightning.pytorch.Trainer`; the classes of the two packages are not interchangeable",
            "Write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`",
        )
    if not isinstance(trainer.strategy, _SERVED) or isinstance(trainer.strategy, _UNTESTED):
        raise UnsupportedStrategyError(
            f"{name} with the strategy {type(trainer.strategy).__name__}",
            "parameters that are whole on every process: a single device or DDP",
            "Pass strategy='ddp' or devices=1 to the Trainer; sharded parameters are not supported yet",
        )


def check_optimizers(callback: pl.Callback, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Refuse a module that trains without an optimizer.

    Args:
        callback: The callback that asks; named in the message.
        trainer: The Trainer.
        pl_module: The module.

    Raises:
        UnsupportedModelError: If there is no optimizer.
    """
    options = [each for optimizer in trainer.optimizers for each in optimizer.param_groups]
    trained = {id(parameter) for each in options for parameter in each["params"]}
    if not any(id(parameter) in trained for parameter in pl_module.parameters()):  # Lightning puts a dummy in place
        raise UnsupportedModelError(
            f"{type(pl_module).__name__} trains without an optimizer",
            f"at least one optimizer, since {type(callback).__name__} acts at its steps",
            "Return one from `configure_optimizers`",
        )
