"""UPGD and AdaUPGD: the published optimizers, with the arithmetic made safe.

What both do at a step, for weight ``w``, gradient ``g``, utility ``u`` and its running average ``U``::

    u = -g w   (+ h w² / 2 with curvature)        U <- decay_rate U + (1 - decay_rate) u
    S = sigmoid(U / divisor)                      the divisor depends on `scaling`
    w <- (1 - lr weight_decay) w                  ungated: useful weights decay as well
    w <- w - lr gate_scale (d + noise) (1 - S)    d = g for UPGD, Adam's direction for AdaUPGD
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lightning_plasticity.errors import InvalidArgumentError, check_number
from lightning_plasticity.optim.blocks import Block, gathered
from lightning_plasticity.optim.gated import Curvature, GatedOptimizer
from lightning_plasticity.optim.settings import Correction, Scaling


class UPGD(GatedOptimizer):
    r"""Utility-based perturbed gradient descent: useful weights are held, useless ones are moved and perturbed.

    Args:
        params: Parameters or parameter groups. A group with ``gated=False`` takes plain steps of gradient descent with
            weight decay: whole steps (a weight of no utility in a gated group takes ``gate_scale / 2``), no noise.
        lr: Step size, at least 0.
        weight_decay: Decoupled weight decay; a step multiplies every weight by ``1 - lr * weight_decay``.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        noise_std: Standard deviation of the noise, on the scale of the gradient: weights move by ``lr * noise_std``.
        scaling: What a utility is divided by before the sigmoid: the largest of all gated weights (``"global"``), the
            norm over the incoming weights of the same unit (``"local"``), or the largest absolute utility of all
            (``"abs"``). ``"none"`` leaves utilities out: perturbed gradient descent.
        correction: ``"paper"`` corrects utility and divisor for the start of the running average, as in Algorithm 1;
            ``"reference"`` only the utility, as in the published code, whose gate is therefore nearly binary for the
            first ``1 / (1 - decay_rate)`` steps.
        protecting: Whether the gate holds back gradient and noise, or the noise only.
        gate_scale: Factor of the gate. Published settings are for 1; the authors' stand-alone optimizer has 2. It
            never multiplies the weight decay.
        gated: Whether the gate is used at all; meant for parameter groups.
        maximize: Ascend instead of descend; the utility is then that of the negative objective.
        foreach: Treat all tensors of a group at once; default on CUDA. Elsewhere tensors are cut into pieces that fit
            into the cache, which is faster there.
        capturable: Keep the clock on the device, so that a step reads nothing back and can be captured in a CUDA
            graph; register ``optimizer.noise.on(device)`` with the graph.
        curvature: Diagonal of the Hessian for second-order utilities, such as a
            :class:`~lightning_plasticity.optim.HesScale`; None for first order.
        seed: Seed of the noise, the same on all processes. None takes torch's global seed, and that of process 0 if
            ``torch.distributed`` runs.

    Raises:
        InvalidArgumentError: If a hyper-parameter is outside its range.
        UnsupportedOptimizerError: If a parameter is complex, or (in a step) a gradient is sparse.

    Note:
        A parameter without a gradient is skipped: its utility, its clock and its weights stay, and it does not take
        part in the maximum. Running utilities are kept in single precision or better. If no utility is positive the
        published code turns the order of the weights around or divides by zero; here harmful weights then take a full
        step and neutral ones half a step.

        Paper and published code differ in two things that both go by the name of scaling: what a utility is divided by
        is ``scaling`` here, whether the divisor is corrected as well is ``correction``. Any two values go together.

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning` (ICLR
        2024), Algorithms 1 and 2.

    Example:
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = UPGD(layer.parameters(), lr=0.01, noise_std=0.01, seed=0)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        *,
        weight_decay: float = 0.0,
        decay_rate: float = 0.999,
        noise_std: float = 1e-3,
        scaling: Scaling = "global",
        correction: Correction = "paper",
        protecting: bool = True,
        gate_scale: float = 1.0,
        gated: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        curvature: Curvature | None = None,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "decay_rate": decay_rate,
            "noise_std": noise_std,
            "scaling": scaling,
            "correction": correction,
            "protecting": protecting,
            "gate_scale": gate_scale,
            "gated": gated,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
        }
        super().__init__(params, defaults, curvature, seed)

    def extra_state(self) -> tuple[str, ...]:
        """Return no names: the utility is all that is remembered."""
        return ()

    def descent(self, block: Block) -> list[Tensor]:
        """Return the gradients."""
        return block.precise("gradient")


class AdaUPGD(GatedOptimizer):
    r"""UPGD on Adam's direction, as published for reinforcement learning: the noise is not normalised, only gated.

    The utility is that of the raw gradient. :class:`UPGD` in front of Adam (a gate on the gradient) is another method:
    there Adam normalises the noise as well.

    Args:
        params: Parameters or parameter groups. A group with ``gated=False`` takes plain AdamW steps without noise.
        lr: Step size, at least 0.
        betas: Decay of the first and of the second moment, each in ``[0, 1)``.
        eps: Added to the root of the second moment, after its correction.
        weight_decay: Decoupled weight decay, ungated.
        decay_rate: Decay of the running utility, in ``[0, 1)``.
        noise_std: Standard deviation of the noise, on the scale of Adam's direction: weights move by
            ``lr * gate_scale * noise_std``.
        scaling: What a utility is divided by; see :class:`UPGD`.
        correction: How the start of the running utility is corrected; see :class:`UPGD`.
        protecting: Whether the gate holds back direction and noise, or the noise only.
        gate_scale: Factor of the gate; 2 as in the published code, whose settings are for it (the paper's Algorithm 5
            has no such factor).
        gated: Whether the gate is used at all; meant for parameter groups.
        maximize: Ascend instead of descend.
        foreach: Treat all tensors of a group at once; default on CUDA.
        capturable: Keep the clock on the device; see :class:`UPGD`.
        curvature: Diagonal of the Hessian for second-order utilities; None for first order.
        seed: Seed of the noise, the same on all processes; see :class:`UPGD`.

    Raises:
        InvalidArgumentError: If a hyper-parameter is outside its range.
        UnsupportedOptimizerError: If a parameter is complex, or (in a step) a gradient is sparse.

    References:
        Elsayed and Mahmood (ICLR 2024), Algorithm 5. ``correction="reference"`` gives the gate of the published code.

    Example:
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = AdaUPGD(layer.parameters(), lr=3e-4, seed=0)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 1e-3,
        decay_rate: float = 0.999,
        noise_std: float = 1e-3,
        scaling: Scaling = "global",
        correction: Correction = "paper",
        protecting: bool = True,
        gate_scale: float = 2.0,
        gated: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        curvature: Curvature | None = None,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay_rate": decay_rate,
            "noise_std": noise_std,
            "scaling": scaling,
            "correction": correction,
            "protecting": protecting,
            "gate_scale": gate_scale,
            "gated": gated,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
        }
        super().__init__(params, defaults, curvature, seed)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group and check its hyper-parameters.

        Args:
            param_group: ``params`` and any hyper-parameters that differ from the defaults.

        Raises:
            InvalidArgumentError: If one is outside of its range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not (isinstance(group["betas"], Sequence) and len(group["betas"]) == 2):
            raise InvalidArgumentError(f"betas={group['betas']!r}", "two numbers in [0, 1)", "Pass (0.9, 0.999)")
        for i, beta in enumerate(group["betas"]):
            check_number(f"betas[{i}]", beta, "[0, 1)")
        check_number("eps", group["eps"], "(0, inf)")

    def extra_state(self) -> tuple[str, ...]:
        """Return the names of Adam's two moments."""
        return ("exp_avg", "exp_avg_sq")

    def descent(self, block: Block) -> list[Tensor]:
        """Return Adam's direction, and move its moments on."""
        (beta1, beta2), capturable = block.group["betas"], block.group["capturable"]
        gradients, means, squares = block.precise("gradient"), block["exp_avg"], block["exp_avg_sq"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        first: list[Any] = [gathered(beta1, step, capturable=capturable) for step in block.steps]
        second: list[Any] = [gathered(beta2, step, capturable=capturable) for step in block.steps]
        roots = torch._foreach_div(squares, second)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, block.group["eps"])
        torch._foreach_mul_(roots, first)
        return list(torch._foreach_div(means, roots))
