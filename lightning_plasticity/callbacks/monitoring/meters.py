"""The metrics of the watched layers during one measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_plasticity.functional.spectrum import as_samples
from lightning_plasticity.functional.weights import optimizer_state_norms
from lightning_plasticity.metrics.base import PlasticityMetric, Reads
from lightning_plasticity.metrics.factor import FactorMetric, SpectralMetric

Values = dict[str, dict[str, Tensor]]
"""Metric name to layer name to value."""


def reads(metric: Metric) -> Reads:
    """Return what a metric is updated with; a metric of another package reads features.

    Args:
        metric: The metric.

    Returns:
        Its declaration.
    """
    return metric.reads if isinstance(metric, PlasticityMetric) else Reads.FEATURES


class FeatureMeters:
    """The metrics of the features, or of the gradients, of one layer.

    Metrics that share a state are updated once; metrics of rank that look at the same spectrum share its decomposition.

    Args:
        metrics: Metrics by name; they are cloned.
        device: Where the features are.
        max_samples: Samples per batch handed to metrics of rank, evenly spread over examples and positions.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device, max_samples: int) -> None:
        self.metrics = {name: metric.clone().to(device) for name, metric in metrics.items()}
        self.max_samples = max_samples
        by_state: dict[object, list[str]] = {}
        for name, metric in self.metrics.items():
            own = not isinstance(metric, PlasticityMetric)
            by_state.setdefault(name if own else tuple(sorted(metric._defaults)), []).append(name)
        self.groups = [
            MetricCollection({n: self.metrics[n] for n in names}, compute_groups=[names]) for names in by_state.values()
        ]

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in the features of a batch, ``[N, U, *P]``."""
        for group in self.groups:
            leader = next(iter(group.values(copy_state=False)))
            group.update(self._sample(features) if isinstance(leader, FactorMetric) else features)

    def _sample(self, features: Tensor) -> Tensor:
        if features.ndim == 2 and len(features) <= self.max_samples:
            return features
        rows = as_samples(features)
        if len(rows) <= self.max_samples:
            return features
        chosen = (torch.arange(self.max_samples, device=rows.device) * (len(rows) / self.max_samples)).long()
        return rows[chosen]

    def compute(self) -> dict[str, Tensor]:
        """Return the value of every metric that has seen a batch."""
        values: dict[str, Tensor] = {}
        shared = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        for group in self.groups:
            spectra: dict[tuple[bool, float | None], Tensor] = {}
            for name, metric in group.items(keep_base=True, copy_state=False):
                if not next(iter(group.values(copy_state=False))).update_called:
                    continue
                if isinstance(metric, SpectralMetric) and shared:
                    key = (metric.centered, metric.noise_floor)
                    spectra[key] = spectra[key] if key in spectra else metric.singular_values()
                    values[name] = metric.measure(spectra[key])
                else:
                    values[name] = metric.compute()
        return values


class WeightMeters:
    """The metrics of the weights of all layers.

    Args:
        metrics: Metrics by name; they are cloned for every measurement.
        layers: Parameters by layer.
        initial: The first values by layer, from a checkpoint; default: those of now.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        layers: Mapping[str, list[nn.Parameter]],
        initial: Mapping[str, list[Tensor]] | None = None,
    ) -> None:
        self.metrics, self.layers = dict(metrics), dict(layers)
        self.kinds = {reads(metric) for metric in metrics.values()}
        self.initial: dict[str, list[Tensor]] = {}
        if Reads.WEIGHTS_AND_INITIAL in self.kinds:
            self.initial = dict(initial) if initial else self._copies()
        self.previous: dict[str, list[Tensor]] = {}
        self.measured: Values = {}

    def before_step(self) -> None:
        """Remember the weights before a step, if a metric compares with them."""
        if Reads.WEIGHTS_AND_PREVIOUS in self.kinds:
            self.previous = self._copies()

    def before_optimizer(self) -> None:
        """Measure the gradients of the first step of a measurement, complete and unscaled as they are then."""
        for name, metric in self._of(Reads.WEIGHT_GRADIENTS):
            if name not in self.measured:
                gradients = {
                    layer: [p.grad for p in parameters if p.grad is not None]
                    for layer, parameters in self.layers.items()
                }
                self.measured[name] = {layer: _value(metric, grads) for layer, grads in gradients.items() if grads}

    def after_step(self) -> None:
        """Compare the weights with those before the first step of a measurement."""
        for name, metric in self._of(Reads.WEIGHTS_AND_PREVIOUS):
            if self.previous:
                self.measured[name] = {
                    layer: _value(metric, parameters, self.previous[layer]) for layer, parameters in self.layers.items()
                }
        self.previous = {}

    def compute(self, optimizers: Iterable[torch.optim.Optimizer]) -> Values:
        """Return the value of every metric for every layer, and forget what was measured on the way."""
        values: Values = {name: layers for name, layers in self.measured.items() if layers}
        for name, metric in self._of(Reads.WEIGHTS):
            values[name] = {layer: _value(metric, parameters) for layer, parameters in self.layers.items()}
        for name, metric in self._of(Reads.WEIGHTS_AND_INITIAL):
            values[name] = {layer: _value(metric, p, self.initial[layer]) for layer, p in self.layers.items()}
        for name, _ in self._of(Reads.OPTIMIZER_STATE):
            for optimizer in optimizers:
                for layer, parameters in self.layers.items():
                    for state, norm in optimizer_state_norms(optimizer, parameters).items():
                        values.setdefault(f"{name}_{state}", {})[layer] = norm
        self.previous, self.measured = {}, {}
        return {name: layers for name, layers in values.items() if layers}

    def _of(self, kind: Reads) -> list[tuple[str, Metric]]:
        return [(name, metric) for name, metric in self.metrics.items() if reads(metric) is kind]

    def _copies(self) -> dict[str, list[Tensor]]:
        return {layer: [p.detach().clone() for p in parameters] for layer, parameters in self.layers.items()}


def _value(metric: Metric, weights: Iterable[Tensor], *others: Iterable[Tensor]) -> Tensor:
    weights = list(weights)
    fresh = metric.clone().to(weights[0].device)
    fresh.update(weights, *others)
    value: Tensor = fresh.compute()
    return value
