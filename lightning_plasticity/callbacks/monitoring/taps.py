"""The hooks of a monitor: they listen to the watched layers while a measurement is under way, else do nothing."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from lightning_plasticity.callbacks.monitoring.layers import Listener, WatchedLayer
from lightning_plasticity.callbacks.monitoring.meters import FeatureMeters, Values
from lightning_plasticity.metrics import DormantUnitRatio

# A metric of our own that is measured with the others when histograms are drawn.
_SCORES = "unit score"


class Taps:
    """Listens to layers and keeps the metrics of one measurement.

    The hooks stay from the beginning of a fit to its end, because ``torch.compile`` ignores hooks that are added after
    the first call.

    Args:
        layers: The layers.
        of_features: Metrics of features by name.
        of_gradients: Metrics of the gradients of features by name.
        max_samples: Samples per batch handed to metrics of rank.
    """

    def __init__(
        self,
        layers: Sequence[WatchedLayer],
        of_features: Mapping[str, Metric],
        of_gradients: Mapping[str, Metric],
        max_samples: int,
    ) -> None:
        self.layers, self.max_samples = tuple(layers), max_samples
        self.of_features, self.of_gradients = dict(of_features), dict(of_gradients)
        self.is_open = False
        self.with_scores = False
        self._meters: dict[tuple[str, bool], FeatureMeters] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Add the hooks."""
        self._handles = [layer.watch(self._listener(layer)) for layer in self.layers]

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def opened(self) -> Generator[None]:
        """Listen for the time being."""
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    def unseen(self) -> list[str]:
        """Return the layers of which nothing was measured since the last :meth:`compute`."""
        expected = bool(self.of_features), bool(self.of_gradients)
        return [
            layer.name
            for layer in self.layers
            if any(wanted and (layer.name, i == 1) not in self._meters for i, wanted in enumerate(expected))
        ]

    def compute(self) -> tuple[Values, dict[str, Tensor]]:
        """Return what was measured since the last call, and forget it.

        Returns:
            Values by metric and layer, and the scores of the units by layer if ``with_scores`` was set.
        """
        values: Values = {}
        scores: dict[str, Tensor] = {}
        for (layer, _), meters in self._meters.items():
            for name, value in meters.compute().items():
                values.setdefault(name, {})[layer] = value
            own = meters.metrics.get(_SCORES)
            if isinstance(own, DormantUnitRatio):
                scores[layer] = own.scores()
        values.pop(_SCORES, None)
        self._meters = {}
        return values, scores

    def _listener(self, layer: WatchedLayer) -> Listener:
        def listen(activation: Tensor) -> None:
            if self.is_open:
                self._take(layer, activation)

        return listen

    # Metrics keep lists and counts, which would be compiled anew for every batch.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _take(self, layer: WatchedLayer, activation: Tensor) -> None:
        if self.of_features or self.with_scores:
            self._of(layer, activation, gradient=False).update(layer.features(activation))
        if self.of_gradients and activation.requires_grad:
            meters = self._of(layer, activation, gradient=True)
            activation.register_hook(lambda g: meters.update(layer.features(g)))  # type: ignore[no-untyped-call]

    def _of(self, layer: WatchedLayer, activation: Tensor, *, gradient: bool) -> FeatureMeters:
        key = (layer.name, gradient)
        if key not in self._meters:
            metrics = self.of_gradients if gradient else self.of_features
            if self.with_scores and not gradient:
                metrics = metrics | {_SCORES: DormantUnitRatio()}
            self._meters[key] = FeatureMeters(metrics, activation.device, self.max_samples)
        return self._meters[key]
