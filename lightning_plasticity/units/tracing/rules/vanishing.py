"""Whether the result of an operation vanishes with an operand: an experiment, not a table of names.

A unit may be given to what is made of it and of something foreign only if nothing is left where the unit is zero. So
the operation is run on a few numbers: zero (False for a mask) stands in for the operand in question and random numbers
for the others, and the result is looked at. What is shown in this way depends on the operation, its options and the
types of its operands alone, and never on the numbers of the example. Only where a mask chooses are the signs of a
constant kept that the forward pass makes, so that a choice between a unit and zeros is told from one between a unit
and ones. An experiment that fails shows nothing, and then nothing vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload

from lightning_plasticity.units.tracing.rules.call import Call
from lightning_plasticity.units.tracing.shadow import Origin

if TYPE_CHECKING:
    from lightning_plasticity.units.tracing.execution import Execution

Signs: TypeAlias = tuple[bool, bool]
_ANY_SIGN: Signs = (True, True)
_NUMBERS, _NOTHING_SHOWN = 16, (False,)


@dataclass(frozen=True)
class Operand:
    """What is known of a tensor that an operation reads.

    Args:
        place: Its position among the operands.
        dtype: The type of its numbers.
        signs: Whether some of them may be negative, and whether some may be positive.
    """

    place: int
    dtype: torch.dtype
    signs: Signs

    def zeros(self, shape: list[int]) -> Tensor:
        """Return zeros in its place."""
        return torch.zeros(shape, dtype=self.dtype)

    def numbers(self, shape: list[int], generator: torch.Generator) -> Tensor:
        """Return random numbers in its place; the first of each row is zero."""
        if self.dtype is torch.bool:
            return torch.rand(shape, generator=generator) < 0.5 * any(self.signs)
        size = torch.rand(shape, generator=generator) * 3 + 1
        negative = torch.rand(shape, generator=generator) < 0.5 if all(self.signs) else self.signs[0]
        drawn = torch.where(torch.as_tensor(negative), -size, size) * any(self.signs)
        if all(self.signs):
            drawn[..., 0] = 0
        return drawn.to(self.dtype)


@dataclass(frozen=True)
class Experiment:
    """An operation that can be repeated on other numbers.

    Args:
        func: The operation.
        args: Its positional arguments, with an :class:`Operand` for every tensor.
        kwargs: Its keyword arguments likewise, without ``out``.
        writes_out: Whether it has an argument ``out``.
        ndim: The number of dimensions of the stand-ins.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    writes_out: bool
    ndim: int

    def vanishes(self, *places: int) -> bool:
        """Return whether the (first) result is zero where all operands at ``places`` are zero."""
        return _vanishing(self, frozenset(places))[0]

    def vanishing(self, *places: int) -> tuple[bool, ...]:
        """Return for every result whether it is zero where all operands at ``places`` are zero."""
        return _vanishing(self, frozenset(places))


def experiment(run: Execution, call: Call) -> Experiment:
    """Return the experiment that ``call`` suggests; its operands are counted in the order of the arguments."""
    known: list[Tensor] = []
    chooses = not all(t.is_floating_point() for t in call.inputs)  # else the conclusion is remembered without values

    def described(value: Any) -> Any:
        if isinstance(value, Tensor):
            known.append(value)
            return Operand(len(known) - 1, value.dtype, _signs(run, value) if chooses else _ANY_SIGN)
        return tuple(map(described, value)) if isinstance(value, (list, tuple)) else value

    args = tuple(map(described, call.args))
    kwargs = tuple((name, described(value)) for name, value in call.kwargs.items() if name != "out")
    assert isinstance(call.func, OpOverload)  # noqa: S101 - nothing else arrives at a dispatch mode
    return Experiment(call.func, args, kwargs, "out" in call.kwargs, max([1, *(t.ndim for t in known)]))


def shifted(run: Execution, call: Call, each: list[Tensor | None]) -> list[Tensor | None]:
    """Return the labels ``each`` of all results; those that do not vanish with the first operand say so.

    Args:
        run: The state of the run.
        call: An operation whose labels are those of its first operand.
        each: The labels of its results.

    Returns:
        As many labels.
    """
    if not any(labels is not None and run.labels.hard[labels].any() for labels in each):
        return each
    ends = experiment(run, call).vanishing(0)
    return [
        labels if labels is None or (i < len(ends) and ends[i]) else run.labels.shift(labels)
        for i, labels in enumerate(each)
    ]


def is_zero(run: Execution, value: Tensor | float) -> bool:
    """Return whether ``value`` is zero on every example: the number, or a constant that the forward pass makes."""
    return _signs(run, value) == (False, False) if isinstance(value, Tensor) else value == 0


def _signs(run: Execution, tensor: Tensor) -> Signs:
    """Return the signs of a constant; a mask, a buffer and whatever depends on the example may have any."""
    seen = run.look(tensor)
    made = seen.origin is Origin.CONSTANT and seen.source is None and seen.labels is None
    if not made or tensor.dtype is torch.bool or tensor.is_complex() or tensor.numel() == 0:
        return _ANY_SIGN
    low, high = tensor.aminmax()
    return bool(low < 0), bool(high > 0)


@lru_cache(maxsize=4096)
def _vanishing(trial: Experiment, zero: frozenset[int]) -> tuple[bool, ...]:
    """Run the experiment with zeros for the operands ``zero``, once for all calls that are alike."""
    generator = torch.Generator().manual_seed(0)
    shape = [4] * (trial.ndim - 1) + [_NUMBERS]

    def stand_in(value: Any) -> Any:
        if isinstance(value, Operand):
            return value.zeros(shape) if value.place in zero else value.numbers(shape, generator)
        return [stand_in(v) for v in value] if isinstance(value, tuple) else value

    try:
        args = [stand_in(value) for value in trial.args]
        kwargs = {name: stand_in(value) for name, value in trial.kwargs}
        if trial.writes_out:
            kwargs["out"] = torch.empty(0, dtype=args[0].dtype)
        with torch.random.fork_rng(devices=()):
            found = trial.func(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return _NOTHING_SHOWN
    results = found if isinstance(found, (tuple, list)) else (found,)
    return tuple(isinstance(result, Tensor) and _is_zero(result, shape) for result in results) or _NOTHING_SHOWN


def _is_zero(result: Tensor, shape: list[int]) -> bool:
    """Return whether all is zero; where every operand is zero, 0/0 does not count."""
    rest = result != 0
    if list(result.shape) == shape:
        rest[..., 0] &= ~result[..., 0].isnan()
    return not rest.any()
