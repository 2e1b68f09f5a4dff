"""What a gate can be put in front of, and what it can be given to gate."""

from __future__ import annotations

from torch.optim import LBFGS, Optimizer

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedOptimizerError, check_choice, check_optimizer
from lightning_plasticity.optim.gated import GatedOptimizer


def check_per(per: object, example_input: object) -> None:
    """Refuse what there is no utility per, and an example for finding units without need of units.

    Args:
        per: The value of the argument ``per``.
        example_input: The value of the argument ``example_input``.

    Raises:
        InvalidArgumentError: If one is refused.
    """
    check_choice("per", per, ("weight", "unit"))
    if per == "weight" and example_input is not None:
        raise InvalidArgumentError(
            "`example_input` with per='weight'",
            "per='unit', which finds units with it",
            "Leave `example_input` out, or pass per='unit'",
        )


def refuse_unsuitable(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose gradients cannot be gated.

    Args:
        optimizer: The optimizer.

    Raises:
        InvalidArgumentError: If it is none.
        UnsupportedOptimizerError: If it evaluates the loss several times in a step, or gates gradients itself.
    """
    check_optimizer(optimizer)
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise UnsupportedOptimizerError(
            "LBFGS in front of which gradients should be perturbed",
            "an optimizer that uses one gradient per step",
            "Use SGD, Adam or another first-order optimizer",
        )
    if isinstance(optimizer, GatedOptimizer):
        raise UnsupportedOptimizerError(
            f"{name} behind another gate, although it perturbs and holds back gradients itself",
            "an optimizer that takes gradients as they are",
            f"Drop the UtilityGate or UPGDPerturbation, or use SGD or Adam instead of {name}",
        )
