"""A whole stream of experiences inside one ``Trainer.fit``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_plasticity.errors import (
    InvalidArgumentError,
    StateMismatchError,
    check_choice,
    check_counts,
    check_flags,
    check_number,
    check_seed,
)
from lightning_plasticity.streams.batches import sample_order
from lightning_plasticity.streams.experiences import ExperienceSamples
from lightning_plasticity.streams.loader import Batching, ExperienceLoader, check_same_length
from lightning_plasticity.streams.randomness import derived_generator

_DEFAULT_EPOCHS = 1000  # what Lightning takes when it is told nothing


class StreamDataModule(pl.LightningDataModule):
    """Feed the experiences of a stream, one after the other, to one ``Trainer.fit``.

    Optimizer state, callbacks and schedulers live through the whole stream, as in the papers on loss of plasticity. The
    place in the stream follows from the Trainer's epoch alone, and the order of the samples from the seed and the
    epoch, so that a run that is resumed at the end of an epoch goes on exactly as it would have.

    The Trainer needs ``max_epochs=datamodule.num_epochs``. If the experiences differ in their number of batches, as
    growing class-incremental streams do, it also needs ``reload_dataloaders_every_n_epochs=1``, since Lightning counts
    the batches of an epoch only when it asks for the loader. Both are checked; a Trainer that ends before the stream
    does is warned of, unless ``max_steps`` says so.

    Args:
        experiences: A stream of Avalanche, such as ``benchmark.train_stream``, or any sequence of datasets. They are
            built when their turn comes and not kept.
        epochs_per_experience: Epochs spent on each experience.
        batch_size: Samples per batch and process. With ``preload`` and 1 this is the online protocol: one sample per
            step.
        eval_experiences: As many experiences to validate and test on. ``Trainer.test`` visits all of them.
        evaluate: Whether validation visits the ``"current"`` one of them only, or ``"all"``, a dataloader for each.
        shuffle: Whether samples are shuffled anew in every epoch; otherwise they come in the order of the dataset.
        drop_last: Whether an incomplete last batch of an epoch is left out.
        task_labels: Whether batches of Avalanche's experiences are ``(x, y, task_label)`` rather than ``(x, y)``.
        preload: Whether an experience is read into tensors once, when its first epoch begins, on the Trainer's device,
            and batches are slices of them. This takes the cost of the ``DataLoader`` out of every step; random
            transforms of the dataset are then drawn once per experience, not per epoch.
        num_workers: Processes that read samples.
        seed: Seed of the order; None takes torch's global seed at construction. It travels in checkpoints.

    Raises:
        InvalidArgumentError: If a number is not positive, or the two streams differ in length.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> stream = [TensorDataset(torch.randn(8, 2), torch.randint(2, (8,))) for _ in range(3)]
        >>> datamodule = StreamDataModule(stream, epochs_per_experience=2, batch_size=4)
        >>> datamodule.num_epochs, datamodule.current_experience, len(datamodule.train_dataloader())
        (6, 0, 2)
    """

    def __init__(
        self,
        experiences: Sequence[Any],
        epochs_per_experience: int = 1,
        *,
        batch_size: int = 32,
        eval_experiences: Sequence[Any] | None = None,
        evaluate: Literal["current", "all"] = "current",
        shuffle: bool = True,
        drop_last: bool = False,
        task_labels: bool = False,
        preload: bool = False,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_counts(epochs_per_experience=epochs_per_experience, batch_size=batch_size)
        check_choice("evaluate", evaluate, ("current", "all"))
        check_number("num_workers", num_workers, "[0, inf)", whole=True)
        check_flags(shuffle=shuffle, drop_last=drop_last, preload=preload)
        check_seed(seed)
        self.epochs_per_experience, self.evaluate, self.shuffle = epochs_per_experience, evaluate, shuffle
        self.seed = int(torch.initial_seed() if seed is None else seed)
        self._train = ExperienceSamples(experiences, task_labels=task_labels)
        self._eval = _eval_samples(eval_experiences, task_labels, len(self._train))
        if self._eval is None:  # a hook that is overridden makes Lightning warn about evaluation nobody asked for
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]
            self.test_dataloader = super().test_dataloader  # type: ignore[method-assign]
        self._batching = Batching(batch_size, drop_last, num_workers)
        self._train_loader = ExperienceLoader(
            self._train,
            self._place,
            self._train_order,
            self._batching,
            self._device if preload else None,
        )

    @override
    def __str__(self) -> str:  # Lightning's own asks every loader of a stream at once
        return f"{type(self).__name__}({self.num_experiences} experiences of {self.epochs_per_experience} epochs)"

    @property
    def num_experiences(self) -> int:
        """Number of experiences of the stream."""
        return len(self._train)

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole stream: what ``Trainer(max_epochs=...)`` needs."""
        return self.num_experiences * self.epochs_per_experience

    @property
    def current_epoch(self) -> int:
        """The epoch of the Trainer, from 0; 0 before a fit."""
        return 0 if self.trainer is None else self.trainer.current_epoch

    @property
    def current_experience(self) -> int:
        """The experience of the current epoch, from 0; after the fit, the last one."""
        return min(self.current_epoch // self.epochs_per_experience, self.num_experiences - 1)

    @property
    def epoch_in_experience(self) -> int:
        """Epochs since the current experience began: 0 in its first epoch."""
        return self.current_epoch - self.current_experience * self.epochs_per_experience

    @override
    def setup(self, stage: str) -> None:
        """Check the Trainer against the stream; warn if it ends before the stream does without being told to.

        Args:
            stage: The Trainer's stage; only ``"fit"`` is checked.

        Raises:
            InvalidArgumentError: If the Trainer wants more epochs than there are, or has no end. Also if it counts
                batches once while the last experience has another number of them than the first.
        """
        trainer = self.trainer
        if stage != "fit" or trainer is None:
            return
        _check_epochs(trainer, self)
        if trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]  # set by a connector
            last = self.num_experiences - 1
            counted, count = (self._batching.count(len(self._train[place])) for place in (0, last))
            check_same_length(last, count, counted)

    @override
    def train_dataloader(self) -> ExperienceLoader:
        """Return the loader of the current experience; it moves on by itself."""
        return self._train_loader.counted()

    @override
    def val_dataloader(self) -> list[ExperienceLoader]:
        """Return the loader that follows the current experience, or one per experience."""
        if self.evaluate == "all":
            return self.test_dataloader()
        return [self._eval_loader(lambda: self.current_experience)]

    @override
    def test_dataloader(self) -> list[ExperienceLoader]:
        """Return one loader per experience to evaluate on."""
        return [self._eval_loader(partial(int, place)) for place in range(self.num_experiences)]

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream and what the order of the samples depends on."""
        return {
            "current_experience": self.current_experience,
            "num_experiences": self.num_experiences,
            "epochs_per_experience": self.epochs_per_experience,
            "seed": self.seed,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of a saved run; the place follows from the Trainer's epoch.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            StateMismatchError: If the saved run went through a stream of another length.
        """
        for name, number in (
            ("num_experiences", self.num_experiences),
            ("epochs_per_experience", self.epochs_per_experience),
        ):
            if state_dict[name] != number:
                raise StateMismatchError(
                    f"a checkpoint with `{name}={state_dict[name]}`",
                    f"`{name}={number}`, or the epoch would point at another experience",
                    "Build the StreamDataModule as it was when the checkpoint was saved",
                )
        self.seed = state_dict["seed"]

    def _place(self) -> int:
        if self.current_epoch >= self.num_epochs and self.trainer is not None and self.trainer.training:
            raise InvalidArgumentError(
                f"epoch {self.current_epoch} of a stream of {self.num_epochs}",
                "a Trainer that ends with the stream",
                "Pass `max_epochs=datamodule.num_epochs` beside `max_steps`",
            )
        return self.current_experience

    def _train_order(self, size: int) -> Tensor | None:
        if not self.shuffle:
            return self._eval_order(size)
        return sample_order(size, derived_generator(self.seed, "order", self.current_epoch), *self._rank())

    def _eval_order(self, size: int) -> Tensor | None:
        rank, world_size = self._rank()
        return None if world_size == 1 else sample_order(size, None, rank, world_size)

    def _eval_loader(self, place: Callable[[], int]) -> ExperienceLoader:
        if self._eval is None:  # only reached by calling the hooks by hand
            raise InvalidArgumentError(
                "`eval_experiences=None`", "experiences to evaluate on", "Pass `eval_experiences` to StreamDataModule"
            )
        return ExperienceLoader(self._eval, place, self._eval_order, replace(self._batching, drop_last=False))

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device


def _check_epochs(trainer: pl.Trainer, stream: StreamDataModule) -> None:
    """Refuse a Trainer that outlasts the stream; warn of one that leaves experiences out, unless steps are limited."""
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    found = f"`Trainer(max_epochs={epochs})`"
    length = f"{stream.num_epochs}: {stream.num_experiences} experiences of {stream.epochs_per_experience} epochs"
    remedy = "Pass `Trainer(max_epochs=datamodule.num_epochs)`"
    endless = epochs == -1 and trainer.max_steps == -1
    if endless or epochs > stream.num_epochs:
        default = ", perhaps by default" if epochs == _DEFAULT_EPOCHS else ""
        raise InvalidArgumentError(f"{found}{default}", f"at most {length}", remedy)
    if 0 <= epochs < stream.num_epochs and trainer.max_steps == -1:
        rank_zero_warn(
            f"{found} ends before the stream, which needs {length}. {remedy}, or a shorter stream, such as "
            "`experiences[:10]`."
        )


def _eval_samples(experiences: Sequence[Any] | None, task_labels: bool, expected: int) -> ExperienceSamples | None:
    if experiences is None:
        return None
    samples = ExperienceSamples(experiences, task_labels=task_labels, name="eval_experiences")
    if len(samples) != expected:
        raise InvalidArgumentError(
            f"{len(samples)} `eval_experiences` for {expected} `experiences`",
            "equally many: the i-th evaluates the i-th",
            "Pass streams of equal length",
        )
    return samples
