"""How the optimizers with a bias correction move an entry of a given age, and what their moments hold by then.

Letters: ``M`` young entries.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

Moments: TypeAlias = dict[str, Tensor]
Options: TypeAlias = dict[str, Any]

HORIZON = 100
"""Updates during which a young entry is corrected; by then the correction of the first moment has long run out."""

_SECOND = ("exp_avg_sq", "max_exp_avg_sq")


@dataclass(frozen=True)
class Rule:
    """One family of optimizers.

    Args:
        update: ``(moments, age, options) -> [M]``: what is subtracted from an entry of that age, over the learning
            rate.
        share: ``(age, options) -> by moment``: the share of a constant that a moment has gathered at that age.
        moments: Names of the per-element memory that is read.
        scalars: Names of further memory per parameter that is read.
        needs_previous: Whether ``update`` needs the first moment of the step before (``moments["previous"]``).
    """

    update: Callable[[Moments, Tensor, Options], Tensor]
    share: Callable[[Tensor, Options], Moments]
    moments: tuple[str, ...] = ("exp_avg", *_SECOND)
    scalars: tuple[str, ...] = ()
    needs_previous: bool = False

    def directions(self, moments: Moments, age: Tensor, step: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        """Return the updates over the learning rate: the one for the entry's ``age``, and the applied one."""
        own = {name: value for name, value in moments.items() if name not in self.scalars}
        return self.update(own, age.clamp_min(1), options), self.update(moments, step, options)

    def shares(self, age: Tensor, step: Tensor, options: Options) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, by moment, the shares it has gathered at the entry's ``age`` and at the shared ``step``."""
        now, then = self.share(age.clamp_min(1), options), self.share(step, options)
        return {name: (now[name], then[name]) for name in now}


def rule_of(optimizer: Optimizer) -> Rule | None:
    """Return the rule of an optimizer; None if it corrects no bias, or in a way that is not known.

    A subclass follows the rule of its parent only if it did not change the step.

    Args:
        optimizer: The optimizer.

    Example:
        >>> rule_of(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])) is None
        True
    """
    step = inspect.unwrap(type(optimizer).step)
    return next((rule for kind, rule in _RULES.items() if inspect.unwrap(kind.step) is step), None)


def _correction(beta: float | Tensor, age: Tensor) -> Tensor:
    correction: Tensor = 1 - beta**age
    return correction


def _adam(moments: Moments, age: Tensor, options: Options) -> Tensor:
    beta1, beta2 = options["betas"]
    second = moments["max_exp_avg_sq" if options["amsgrad"] else "exp_avg_sq"]
    deviation = (second / _correction(beta2, age)).sqrt() + options["eps"]
    update: Tensor = moments["exp_avg"] / (_correction(beta1, age) * deviation)
    return update


def _adam_share(age: Tensor, options: Options) -> Moments:
    beta1, beta2 = options["betas"]
    return {"exp_avg": _correction(beta1, age), **dict.fromkeys(_SECOND, _correction(beta2, age))}


def _adamax(moments: Moments, age: Tensor, options: Options) -> Tensor:
    return moments["exp_avg"] / (_correction(options["betas"][0], age) * moments["exp_inf"])


def _adamax_share(age: Tensor, options: Options) -> Moments:
    return {"exp_avg": _correction(options["betas"][0], age)}


def _nadam(moments: Moments, age: Tensor, options: Options) -> Tensor:
    beta1, beta2 = options["betas"]
    momentum, following = _nadam_momentum(age, options), _nadam_momentum(age + 1, options)
    product = moments["mu_product"] if "mu_product" in moments else _nadam_product(age, options)
    gradient = (moments["exp_avg"] - beta1 * moments["previous"]) / (1 - beta1)
    deviation = (moments["exp_avg_sq"] / _correction(beta2, age)).sqrt() + options["eps"]
    now = gradient * (1 - momentum) / (1 - product)
    update: Tensor = (now + moments["exp_avg"] * following / (1 - product * following)) / deviation
    return update


def _nadam_momentum(age: Tensor, options: Options) -> Tensor:
    momentum: Tensor = options["betas"][0] * (1 - 0.5 * 0.96 ** (age * options["momentum_decay"]))
    return momentum


def _nadam_product(age: Tensor, options: Options) -> Tensor:
    """The product of the momenta up to ``age``, which the optimizer itself only keeps for the shared step."""
    ages = torch.arange(1, 1 + HORIZON, device=age.device, dtype=age.dtype)
    return _nadam_momentum(ages, options).cumprod(0)[age.long().clamp(1, HORIZON) - 1]


def _nadam_share(age: Tensor, options: Options) -> Moments:
    return {"exp_avg_sq": _correction(options["betas"][1], age)}


def _radam(moments: Moments, age: Tensor, options: Options) -> Tensor:
    beta1, beta2 = options["betas"]
    first = moments["exp_avg"] / _correction(beta1, age)
    rectification = _radam_rectification(age, options)
    scale = (rectification * _correction(beta2, age)).sqrt() / (moments["exp_avg_sq"].sqrt() + options["eps"])
    return torch.where(rectification > 0, first * scale, first)


def _radam_rectification(age: Tensor, options: Options) -> Tensor:
    """The square of the rectification term; 0 as long as RAdam does not divide by the second moment."""
    beta2 = options["betas"][1]
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * age * beta2**age / _correction(beta2, age)
    squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return torch.where(length > 5, squared, 0.0)


def _radam_share(age: Tensor, options: Options) -> Moments:
    """The second moment takes over the rectification, which the shared step has long left behind."""
    beta1, beta2 = options["betas"]
    rectification = _radam_rectification(age, options)
    second = _correction(beta2, age) * torch.where(rectification > 0, rectification, 1.0)
    return {"exp_avg": _correction(beta1, age), "exp_avg_sq": second}


_RULES: dict[type[Optimizer], Rule] = {
    Adam: Rule(_adam, _adam_share),
    AdamW: Rule(_adam, _adam_share),
    Adamax: Rule(_adamax, _adamax_share, moments=("exp_avg", "exp_inf")),
    NAdam: Rule(_nadam, _nadam_share, moments=("exp_avg", "exp_avg_sq"), scalars=("mu_product",), needs_previous=True),
    RAdam: Rule(_radam, _radam_share, moments=("exp_avg", "exp_avg_sq")),
}
