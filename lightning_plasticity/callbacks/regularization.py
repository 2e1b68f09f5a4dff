"""Decays and shrink-and-perturb on any optimizer of a LightningModule."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from typing_extensions import override

from lightning_plasticity.callbacks.experience import experience_begins, stream_of
from lightning_plasticity.callbacks.guards import check_optimizers, check_trainer
from lightning_plasticity.callbacks.lifetime import EngineCallback
from lightning_plasticity.errors import check_number, check_seed
from lightning_plasticity.optim.parameters import choose_parameters, warn_untrained
from lightning_plasticity.optim.regularization import Decay
from lightning_plasticity.optim.shrink_perturb import ShrinkPerturb, check_moment, check_shrinking
from lightning_plasticity.units.patterns import Patterns, include_exclude


class _DecayCallback(EngineCallback):
    """The lifetime of :class:`~lightning_plasticity.optim.regularization.Decay`, for every optimizer of a module."""

    def __init__(
        self,
        strength: float,
        include: Patterns,
        exclude: Patterns,
        *,
        norm: Literal[1, 2] = 2,
        toward: Literal["zero", "initial"] = "zero",
    ) -> None:
        check_number("strength", strength, "[0, inf)")
        super().__init__(include, exclude)
        self.strength, self.norm, self.toward = strength, norm, toward
        self.decays: list[Decay] = []
        self._restored: list[dict[str, Any]] = []

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(self, trainer, pl_module)
        chosen = choose_parameters(pl_module, self.include, self.exclude)
        warn_untrained(type(self).__name__, chosen, trainer.optimizers)
        states = self._restored or [decay.state_dict() for decay in self.decays]  # a further fit: the start stays
        self.decays = [
            Decay(optimizer, self.strength, norm=self.norm, toward=self.toward, parameters=chosen)
            for optimizer in trainer.optimizers
        ]
        for decay, state in zip(self.decays, states, strict=False):
            decay.load_state_dict(state)
        self._restored = []
        for decay in self.decays:
            decay.attach()

    @override
    def state_dict(self) -> dict[str, Any]:
        states = self._restored or [decay.state_dict() for decay in self.decays]
        return {"decays": states} if states and self.toward == "initial" else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["decays"]

    @override
    def detach(self) -> None:
        for decay in self.decays:
            decay.detach()


class L2Regularization(_DecayCallback):
    """Let weights decay toward zero by ``lr * strength`` of their value after every step, whatever the optimizer.

    Decoupled: for Adam this is the decay of AdamW, up to its place after instead of before the step.

    Args:
        strength: Strength of the decay, at least 0.
        include: Patterns (``*``, ``?``) of parameters to treat; None treats all.
        exclude: Patterns of parameters to leave alone, such as ``["*.bias"]``.

    Example:
        >>> trainer = pl.Trainer(callbacks=[L2Regularization(1e-2)], logger=False, accelerator="cpu")
    """

    def __init__(self, strength: float, *, include: Patterns = None, exclude: Patterns = None) -> None:
        super().__init__(strength, include, exclude)


class L1Regularization(_DecayCallback):
    """Move weights toward zero by ``lr * strength`` after every step, and leave them there once they arrive.

    Args:
        strength: Strength of the decay, at least 0.
        include: Patterns (``*``, ``?``) of parameters to treat; None treats all.
        exclude: Patterns of parameters to leave alone.

    Example:
        >>> trainer = pl.Trainer(callbacks=[L1Regularization(1e-4)], logger=False, accelerator="cpu")
    """

    def __init__(self, strength: float, *, include: Patterns = None, exclude: Patterns = None) -> None:
        super().__init__(strength, include, exclude, norm=1)


class RegenerativeRegularization(_DecayCallback):
    """Pull weights back to where they were when the first fit started, by ``lr * strength`` of the way per step.

    The initial weights are in the checkpoint, and stay those of the first fit in further ones.

    Args:
        strength: Strength of the pull, at least 0; twice the factor of the paper's penalty, which has no half.
        include: Patterns (``*``, ``?``) of parameters to treat; None treats all.
        exclude: Patterns of parameters to leave alone.

    References:
        Kumar, Marklund and Van Roy, `Maintaining Plasticity in Continual Learning via Regenerative Regularization`
        (CoLLAs 2024); there the penalty is part of the loss and passes the optimizer.

    Example:
        >>> trainer = pl.Trainer(callbacks=[RegenerativeRegularization(1e-2)], logger=False, accelerator="cpu")
    """

    def __init__(self, strength: float, *, include: Patterns = None, exclude: Patterns = None) -> None:
        super().__init__(strength, include, exclude, toward="initial")


class ShrinkAndPerturb(pl.Callback):
    r"""Shrink all weights and add noise, :math:`w \leftarrow \lambda w + \sigma \xi`, as a new experience begins.

    Args:
        shrink: The factor of the weights, in ``[0, 1]``.
        noise_std: The factor of the noise, at least 0.
        noise: ``"gaussian"``, of standard deviation 1, or ``"initialization"``, a fresh initialisation by the layers'
            own ``reset_parameters``.
        every: ``"experience"``: at the beginning of every experience of a
            :class:`~lightning_plasticity.streams.StreamDataModule` but the first; ``"fit"``: of every further fit with
            this callback; ``"epoch"``: of every epoch but the first; ``"step"``: after every ``every_n_steps`` steps.
        every_n_steps: Period for ``every="step"``; refused with any other.
        include: Patterns (``*``, ``?``) of parameters to treat; None treats all.
        exclude: Patterns of parameters to leave alone.
        seed: Seed of the noise; None takes the global seed of the first process.

    Raises:
        InvalidArgumentError: If a value is outside its range, or (when the fit starts) if there is no stream whose
            experiences could begin.

    References:
        Ash and Adams, `On Warm-Starting Neural Network Training` (NeurIPS 2020), section 4. The method of the same name
        in the UPGD paper is weight decay with noise on the gradient: ``UPGD(..., scaling="none", weight_decay=...)``.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ShrinkAndPerturb(every="epoch")], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        shrink: float = 0.5,
        noise_std: float = 0.01,
        *,
        noise: Literal["gaussian", "initialization"] = "gaussian",
        every: Literal["experience", "fit", "epoch", "step"] = "experience",
        every_n_steps: int = 1,
        include: Patterns = None,
        exclude: Patterns = None,
        seed: int | None = None,
    ) -> None:
        self.include, self.exclude = include_exclude(include, exclude)
        check_shrinking(shrink, noise_std, noise)
        check_moment(every, ("experience", "fit", "epoch", "step"), every_n_steps)
        check_seed(seed)
        self.shrink, self.noise_std, self.noise = shrink, noise_std, noise
        self.every, self.every_n_steps, self.seed = every, every_n_steps, seed
        self.engine: ShrinkPerturb | None = None
        self._restored: dict[str, Any] = {}
        self._fits = 0  # completed
        self._acted_at = 0

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(every=self.every, include=self.include, exclude=self.exclude)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            check_trainer(self, trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every == "experience":
            stream_of(trainer, ", or act at another moment: every='fit', 'epoch' or 'step'")
        seed = trainer.strategy.broadcast(self.seed if self.seed is not None else torch.initial_seed())
        resumed, noise = bool(self._restored), None if self.engine is None else self.engine.state_dict()
        chosen = choose_parameters(pl_module, self.include, self.exclude)
        warn_untrained(type(self).__name__, chosen)
        self.engine = ShrinkPerturb(
            pl_module, shrink=self.shrink, noise_std=self.noise_std, noise=self.noise, seed=seed, parameters=chosen
        )
        if self._restored or noise:
            self.engine.load_state_dict(self._restored or noise or {})
        self._restored = {}
        if self.every == "fit" and self._fits and not resumed:
            self.engine()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begins = self.every == "epoch" and trainer.current_epoch > 0
        if self.every == "experience":
            begins = experience_begins(trainer) and stream_of(trainer).current_experience > 0
        if begins and self.engine is not None:
            self.engine()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (
            self.every == "step"
            and step > self._acted_at
            and step % self.every_n_steps == 0
            and self.engine is not None
        ):
            self._acted_at = step
            self.engine()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fits += 1
        self._acted_at = 0

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.engine is None:
            return self._restored
        return self.engine.state_dict() | {"fits": self._fits, "acted_at": self._acted_at}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored, self._fits, self._acted_at = state_dict, state_dict["fits"], state_dict["acted_at"]
