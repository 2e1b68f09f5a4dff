"""Intransigence, the gap to a network trained from scratch, as an Avalanche plugin metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue

from lightning_plasticity.avalanche.naming import metric_value
from lightning_plasticity.errors import InvalidArgumentError, check_number


class Intransigence(PluginMetric[float]):
    """How far behind a reference the accuracy on an experience is right after training on it.

    Args:
        reference: Accuracy that a network trained from scratch reaches on each experience.
    """

    def __init__(self, reference: Sequence[float]) -> None:
        super().__init__()
        self.reference = tuple(reference)
        self._trained, self._correct, self._total = -1, 0, 0

    def __str__(self) -> str:
        return "Intransigence_Exp"

    def result(self) -> float | None:
        """Return the gap, positive if the reference is better; None before the trained experience was evaluated."""
        return self.reference[self._trained] - self._correct / self._total if self._total else None

    def reset(self) -> None:
        """Forget the evaluation."""
        self._correct = self._total = 0

    def before_training_exp(self, strategy: Any) -> None:
        """Note which experience is trained on.

        Args:
            strategy: The strategy.

        Raises:
            InvalidArgumentError: If there is no reference for the experience.
        """
        self._trained = strategy.experience.current_experience
        if self._trained >= len(self.reference):
            raise InvalidArgumentError(
                f"a reference of {len(self.reference)} accuracies in experience {self._trained}",
                "one accuracy per experience of the stream",
                "Pass the accuracies of a network trained from scratch, such as with `FromScratchTrainingPlugin`",
            )

    def before_eval_exp(self, strategy: Any) -> None:
        """Start counting."""
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Count the right answers on the experience that was trained on last."""
        if strategy.experience.current_experience == self._trained:
            self._correct += int((strategy.mb_output.argmax(1) == strategy.mb_y).sum())
            self._total += len(strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> list[MetricValue] | None:
        """Emit the gap after the experience that was trained on last."""
        value = self.result()
        return None if value is None else [metric_value(self, strategy, str(self), value, experience=True)]


def intransigence_metrics(*, reference: Sequence[float]) -> list[PluginMetric[Any]]:
    """Return the metric of intransigence: accuracy of a network trained from scratch minus that of this one.

    Args:
        reference: Accuracy that a network trained from scratch reaches on each experience.

    Returns:
        One plugin metric; it emits when the experience that was trained on last is evaluated.

    Raises:
        InvalidArgumentError: If the reference is no sequence of accuracies.

    References:
        Chaudhry et al., `Riemannian walk for incremental learning` (ECCV 2018), equation 6.
    """
    if not isinstance(reference, Sequence):
        raise InvalidArgumentError(
            f"reference={reference!r}", "one accuracy per experience of the stream", "Pass a list, such as [0.9, 0.8]"
        )
    for place, accuracy in enumerate(reference):
        check_number(f"reference[{place}]", accuracy, "[0, 1]")
    return [Intransigence(reference)]
