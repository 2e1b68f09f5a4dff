"""Callbacks with an engine need an optimizer, and leave it and the model as they found them, however a fit ends."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
from support.training_runs import Classifier, loader, trainer

from lightning_plasticity.callbacks import ContinualBackprop, L2Regularization, UPGDPerturbation
from lightning_plasticity.errors import UnsupportedModelError

CALLBACKS = {
    "ContinualBackprop": ContinualBackprop,
    "UPGDPerturbation": lambda: UPGDPerturbation(when="after_clipping"),
    "L2Regularization": lambda: L2Regularization(0.1),
}


class Ends(pl.Callback):
    """Looks at the hooks in the middle of a fit, and may end it with an error."""

    def __init__(self, error):
        self.error, self.during = error, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.during = hooks(trainer, pl_module)
        if self.error:
            raise RuntimeError("enough")


def hooks(trainer, pl_module):
    of_modules = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pl_module.modules()]
    of_steps = [len(o._optimizer_step_pre_hooks) + len(o._optimizer_step_post_hooks) for o in trainer.optimizers]
    return sum(of_modules) + sum(of_steps)


@pytest.mark.parametrize("error", [False, True], ids=["to the end", "by an error"])
@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_no_hook_is_left(tmp_path, make, error):
    module, watcher = Classifier(), Ends(error)
    run = trainer(tmp_path, callbacks=[make(), watcher], max_epochs=1)
    try:
        run.fit(module, loader())
    except RuntimeError as ended:
        assert str(ended) == "enough"  # noqa: PT017 - whether it is raised depends on the case
    assert watcher.during > 0
    assert hooks(run, module) == 0


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_a_module_without_an_optimizer_is_refused_by_name(tmp_path, make):
    class Untrained(Classifier):
        def configure_optimizers(self):
            return None

    callback = make()
    with (
        pytest.warns(UserWarning, match="configure_optimizers` returned `None`"),
        pytest.raises(UnsupportedModelError, match=rf"Untrained trains without.*{type(callback).__name__} acts at its"),
    ):
        trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(Untrained(), loader())
