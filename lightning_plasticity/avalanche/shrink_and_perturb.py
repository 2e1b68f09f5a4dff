"""Shrink-and-perturb in an Avalanche strategy."""

from __future__ import annotations

from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin
from typing_extensions import override

from lightning_plasticity.errors import check_seed
from lightning_plasticity.optim.parameters import choose_parameters
from lightning_plasticity.optim.shrink_perturb import ShrinkPerturb, check_moment, check_shrinking
from lightning_plasticity.units.patterns import Patterns, include_exclude


class ShrinkAndPerturbPlugin(SupervisedPlugin[Any], supports_distributed=False):
    r"""Shrinks all weights and adds noise: :math:`w \leftarrow \lambda w + \sigma \xi`.

    Args:
        shrink: The factor :math:`\lambda`, in ``[0, 1]``.
        noise_std: The factor :math:`\sigma` of the noise, at least 0.
        noise: ``"gaussian"`` or ``"initialization"``; see
            :class:`~lightning_plasticity.optim.ShrinkPerturb`.
        every: ``"experience"`` acts at the beginning of every experience but the first, ``"step"`` after updates.
        every_n_steps: Period for ``every="step"``; refused with any other.
        include: Patterns (``*``, ``?``) of parameters to treat; None treats all.
        exclude: Patterns of parameters to leave alone.
        seed: Seed of the noise; None takes torch's global seed.

    Raises:
        InvalidArgumentError: If a value is outside its range.

    References:
        Ash and Adams, `On Warm-Starting Neural Network Training` (NeurIPS 2020), section 4; after every step, with
        small values, in Dohare et al. (Nature 2024).

    Example:
        >>> plugin = ShrinkAndPerturbPlugin(shrink=0.5, noise_std=0.01)
    """

    def __init__(
        self,
        shrink: float = 0.5,
        noise_std: float = 0.01,
        *,
        noise: Literal["gaussian", "initialization"] = "gaussian",
        every: Literal["experience", "step"] = "experience",
        every_n_steps: int = 1,
        include: Patterns = None,
        exclude: Patterns = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_shrinking(shrink, noise_std, noise)
        check_moment(every, ("experience", "step"), every_n_steps)
        check_seed(seed)
        self.include, self.exclude = include_exclude(include, exclude)
        self.settings: dict[str, Any] = {"shrink": shrink, "noise_std": noise_std, "noise": noise}
        self.every, self.every_n_steps, self.seed = every, every_n_steps, seed
        self._steps = 0
        self._noise: dict[str, Any] | None = None

    @override
    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Act, unless this is the first experience.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        if self.every == "experience" and strategy.clock.train_exp_counter > 0:
            self._act(strategy)

    @override
    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Act, if asked to after every step.

        Args:
            strategy: The strategy.
            args: Unused.
            kwargs: Unused.
        """
        self._steps += 1
        if self.every == "step" and self._steps % self.every_n_steps == 0:
            self._act(strategy)

    def _act(self, strategy: Any) -> None:
        """Shrink and perturb the parameters that the model has now; heads may have grown since the last time."""
        chosen = choose_parameters(strategy.model, self.include, self.exclude)
        engine = ShrinkPerturb(strategy.model, parameters=chosen, seed=self.seed, **self.settings)
        if self._noise is not None:
            engine.load_state_dict(self._noise)
        engine()
        self._noise = engine.state_dict()
