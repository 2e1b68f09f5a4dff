"""The diagonal of the generalised Gauss-Newton matrix from sampled labels, by BackPACK (extra ``curvature``)."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError, check_module, check_number
from lightning_plasticity.optim.diagonal import DiagonalMemory
from lightning_plasticity.optim.noise import NoiseSource

_LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss)
_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Flatten,
    nn.Identity, nn.ZeroPad2d, nn.Embedding, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Sigmoid, nn.LogSigmoid, nn.Tanh,
)  # fmt: skip
_REMEDY = "Use curvature='hesscale', which follows functions as well as modules, or first-order utilities"


class SampledGaussNewton(DiagonalMemory):
    """The diagonal of the generalised Gauss-Newton matrix, from labels sampled from the model's own predictions.

    Without the second derivatives of the activations, so it equals the Hessian's diagonal in expectation where the
    network is linear in pieces; never negative, and noisy. :class:`~lightning_plasticity.optim.HesScale` is cheaper,
    covers more and draws nothing; this is an alternative to check it against. The model has to consist of modules, each
    used once per pass, from its input to one loss module: sums and functions between them are refused.

    BackPACK works through hooks on modules, which :meth:`detach` removes, and through attributes that it writes to
    modules and parameters, which are gone after the backward pass. The user's random numbers are not touched.

    Args:
        model: The model; may contain the loss.
        loss: The loss: cross-entropy, squared error or binary cross-entropy with logits, a mean or a sum, unweighted.
        samples: Sampled labels per example, at least 1.
        seed: Seed of the samples; None takes torch's global seed.

    Raises:
        InvalidArgumentError: If BackPACK is missing, or an argument is outside its range.
        UnsupportedModelError: If the loss has settings that BackPACK does not know, or a layer works in place.

    References:
        Dangel, Kunstner and Hennig, `BackPACK: Packing more into Backprop` (ICLR 2020).
    """

    def __init__(self, model: nn.Module, loss: nn.Module, *, samples: int = 1, seed: int | None = None) -> None:
        super().__init__()
        check_module(model)
        check_number("samples", samples, "[1, inf)", whole=True)
        _check_loss(loss)
        self.model, self.loss, self.samples = model, loss, samples
        self.source = NoiseSource(seed)
        self._backpack = _import()
        layers = {name: m for name, m in model.named_modules() if not list(m.children()) and m is not loss}
        in_place = [name for name, module in layers.items() if getattr(module, "inplace", False)]
        if in_place:
            raise UnsupportedModelError(
                f"{in_place} work in place", "layers that keep their input", "Set inplace=False"
            )
        self._names = {module: name for name, module in layers.items()}
        self._unruled: list[str] = []
        self._factor: Tensor | None = None
        self._during: ExitStack = ExitStack()
        self._handles: list[RemovableHandle] = []
        self._start: RemovableHandle
        self.attach()

    def watch(self, loss: Tensor, *, scale: float = 1.0) -> Tensor:
        """Prepare to follow the backward pass of ``loss``, which must come next.

        Args:
            loss: A scalar that depends linearly on what the loss module has returned.
            scale: The factor by which a gradient scaler has multiplied the loss.

        Returns:
            The loss itself.

        Raises:
            InvalidArgumentError: If the loss is no scalar.
            UnsupportedModelError: If layers without a rule have run since the last call.
        """
        norms = [n for m, n in self._names.items() if isinstance(m, _BatchNorm) and m.training]
        unruled, self._unruled = self._unruled + norms, []
        if unruled:
            raise UnsupportedModelError(
                f"BackPACK has no rule for {sorted(set(unruled))}",
                "linear layers, convolutions, pooling, activations, and batch normalisation in evaluation mode",
                _REMEDY,
            )
        self.expect(loss)
        self._during.close()  # open still if the last backward pass has failed
        if loss.requires_grad:
            self._start = loss.register_hook(lambda gradient: self._begin(scale))  # type: ignore[no-untyped-call]
        return loss

    def attach(self) -> None:
        """Hook the modules; done at construction, needed again after :meth:`detach`."""
        self.detach()
        self._handles = self._hooks()

    def detach(self) -> None:
        """Leave the modules alone."""
        self._during.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for module in (*self._names, self.loss):
            self._backpack.memory_cleanup(module)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the state of the samples' random numbers."""
        return self.source.state_dict()

    def load_state_dict(self, state_dict: dict[str, Tensor | int]) -> None:
        """Continue the random numbers of a saved state."""
        self.source.load_state_dict(state_dict)

    def _hooks(self) -> list[RemovableHandle]:
        handles = [self.loss.register_forward_hook(self._on_loss)]
        for module in (*self._names, self.loss):
            if isinstance(module, _LAYERS + _LOSSES):
                handles.append(module.register_forward_hook(self._backpack.hook_store_io))
                handles.append(module.register_full_backward_hook(self._run))
            else:
                handles.append(module.register_forward_hook(self._on_unruled))
        return handles

    def _on_unruled(self, module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            self._unruled.append(f"{self._names[module]} ({type(module).__name__})")

    def _on_loss(self, module: nn.Module, args: object, output: Tensor) -> None:
        def remember(gradient: Tensor) -> None:
            self._factor = gradient

        if output.requires_grad:
            output.register_hook(remember)  # type: ignore[no-untyped-call]

    def _run(self, module: nn.Module, slopes_in: Any, slopes_out: Any) -> None:
        try:
            self._backpack.hook_run_extensions(module, slopes_in, slopes_out)
        except AssertionError:  # nothing has arrived here; the parameters that miss it are named at the end
            self._backpack.memory_cleanup(module)

    def _begin(self, scale: float) -> None:
        """Switch BackPACK on for the backward pass that begins, with random numbers of our own."""
        self._start.remove()
        seed = int(torch.randint(2**62, (), generator=self.source.on(torch.device("cpu"))))
        self._factor = None
        self._during.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")
        warnings.filterwarnings("ignore", message="The output of .* seems to have been modified")  # by a known factor
        self._during.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        extension = self._backpack.extensions.DiagGGNMC(mc_samples=self.samples)
        self._during.enter_context(self._backpack.backpack(extension))
        torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end(scale))

    @torch.no_grad()
    def _end(self, scale: float) -> None:
        """Collect what BackPACK has left on the parameters; it does not know by what the loss was multiplied."""
        self._during.close()
        missing = []
        for name, parameter in self.model.named_parameters():
            values = vars(parameter).pop("diag_ggn_mc", None)
            if values is not None and self._factor is not None:
                self.add(parameter, values * (self._factor / scale))
            elif parameter.grad is not None:
                missing.append(name)
        if missing:
            raise UnsupportedModelError(
                f"BackPACK has lost its way to {missing}",
                "modules all the way from these parameters to the loss module, without functions or sums in between",
                _REMEDY,
            )


def only_loss(model: nn.Module) -> nn.Module:
    """Return the one loss module of a model.

    Args:
        model: The model.

    Returns:
        Its cross-entropy, squared error or binary cross-entropy with logits.

    Raises:
        UnsupportedModelError: If there is none or more than one.
    """
    losses = {name: module for name, module in model.named_modules() if isinstance(module, _LOSSES)}
    if len(losses) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} with the loss modules {list(losses)}",
            "exactly one CrossEntropyLoss, MSELoss or BCEWithLogitsLoss, from which BackPACK starts",
            "Set `self.loss = nn.CrossEntropyLoss()` and call it in `training_step`, or use curvature='hesscale'",
        )
    return next(iter(losses.values()))


def _check_loss(loss: nn.Module) -> None:
    weighted = getattr(loss, "weight", None) is not None or getattr(loss, "pos_weight", None) is not None
    ignoring = getattr(loss, "ignore_index", -100) != -100
    if not isinstance(loss, _LOSSES) or weighted or ignoring or loss.reduction == "none":
        raise UnsupportedModelError(
            f"the loss {loss}" + " with weights" * weighted + " with `ignore_index`" * ignoring,
            "CrossEntropyLoss, MSELoss or BCEWithLogitsLoss, without weights, as a mean or a sum",
            _REMEDY,
        )


def _import() -> ModuleType:
    try:
        import backpack  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise InvalidArgumentError(
            "BackPACK is not installed",
            "the package backpack-for-pytorch",
            "pip install 'lightning-plasticity[curvature]'",
        ) from error
    module: ModuleType = backpack
    return module
