"""What a monitor tells its user: which layers it cannot hear, and why nothing was logged."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.utilities import rank_zero_warn

from lightning_plasticity.units import UnitGroup


def warn_unread(groups: Iterable[UnitGroup]) -> None:
    """Warn about units whose activations no module takes in or gives out.

    Args:
        groups: The groups that are watched.
    """
    names = [group.name for group in groups if group.tap is None]
    if names:
        rank_zero_warn(
            f"PlasticityMonitor: the units of {names} are written and read within one module, where hooks do not "
            "reach, so only their weights are measured. Leave them out with `exclude=`, or measure the outputs of "
            "modules of your choice with `layers=`."
        )


def warn_unseen(layers: Iterable[str]) -> None:
    """Warn about layers of which nothing was measured.

    Args:
        layers: Their names.
    """
    rank_zero_warn(
        f"PlasticityMonitor: no activations arrived from {list(layers)}, so nothing is logged about them. Either they "
        "did not run, or `torch.compile` ignores the hooks. Pass `probe=`: a probe is run without compilation."
    )


def warn_unlogged(steps: int) -> None:
    """Warn that a fit ended before the first measurement did, or began.

    Args:
        steps: Optimizer steps of the fit.
    """
    rank_zero_warn(
        f"PlasticityMonitor: nothing was logged, because the fit ended after {steps} optimizer steps, before the first "
        "measurement was complete. Pass smaller `every_n_steps` and `batches`, or train until the end of an epoch."
    )
