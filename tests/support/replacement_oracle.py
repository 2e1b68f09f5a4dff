"""Unit replacement written from the equations: one unit at a time, in float64, without the library.

The oracle trains its own copy of a chain of layers, step by step beside the library, and keeps every number of every
unit in a Python object. It shares with the library only the order of random draws: scores by lot first, then fresh
incoming weights, group by group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn


@dataclass
class Unit:
    age: int = 0
    trace: float = 0.0
    mean: float = 0.0
    period: float = 0.0
    silence: int = 0
    gaps: list = field(default_factory=list)


@dataclass
class Rule:
    """How one hidden layer is treated: ``rate`` with ``maturity``, or every score at most ``threshold``."""

    utility: str
    rate: float | None = None
    maturity: int = 0
    threshold: float | None = None
    every: int = 1
    decay: float = 0.99
    prior_weight: float = 100.0


class Hidden:
    """A hidden layer: its writer, its reader and what the reader saw in the last forward pass."""

    def __init__(self, writer, reader, rule):
        self.writer, self.reader, self.rule = writer, reader, rule
        self.units = [Unit() for _ in range(writer.weight.shape[0])]
        self.due, self.step = 0.0, 0
        fan_in = writer.weight[0].numel()
        self.bound = 1 / math.sqrt(fan_in)

    @property
    def columns_per_unit(self):
        return self.reader.weight.shape[1] // len(self.units)

    def columns(self, i):
        k = self.columns_per_unit
        return range(i * k, (i + 1) * k)


class Oracle:
    """Trains ``layers`` (Linear, Conv2d, modules without parameters) and replaces by one rule per hidden layer."""

    def __init__(self, layers, optimizer, rules, seed):
        self.layers, self.optimizer = list(layers), optimizer
        weighted = [layer for layer in self.layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
        self.hidden = [Hidden(w, r, rule) for w, r, rule in zip(weighted[:-1], weighted[1:], rules, strict=True)]
        self.generator = torch.Generator().manual_seed(seed)
        self.log = []

    def train_step(self, x, y):
        seen = []
        for layer in self.layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                x.requires_grad and x.retain_grad()
                seen.append(x)
            x = layer(x)
        loss = (x - y).square().sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for hidden, activation in zip(self.hidden, seen[1:], strict=True):
            self.measure(hidden, activation.detach().numpy(), activation.grad.numpy())
        self.replace()

    def measure(self, hidden, h, g):
        hidden.step += 1
        w_in, w_out = _array(hidden.writer.weight), _array(hidden.reader.weight)
        for i, unit in enumerate(hidden.units):
            unit.age += 1
            columns = [h[:, c].ravel() for c in hidden.columns(i)]
            outgoing = [np.abs(w_out[:, c]).mean() for c in hidden.columns(i)]
            slopes = [(h[:, c] * g[:, c]).reshape(len(h), -1).sum(1) for c in hidden.columns(i)]
            now = self.worth(hidden.rule, unit, columns, np.abs(w_in[i]).mean(), outgoing, sum(slopes))
            unit.trace = hidden.rule.decay * unit.trace + (1 - hidden.rule.decay) * now
            source = g if hidden.rule.utility == "gradient_magnitude" else h
            unit.period += sum(np.abs(source[:, c]).sum() for c in hidden.columns(i))
            unit.silence += 1
            if any(column.any() for column in columns):
                unit.gaps.append(unit.silence)
                unit.silence = 0

    def worth(self, rule, unit, columns, w_in, w_out, change):
        """The instantaneous utility of one unit: ``columns`` and ``w_out`` hold one entry per position of a flatten."""
        match rule.utility:
            case "contribution":
                return np.mean([np.abs(h).mean() * w for h, w in zip(columns, w_out, strict=True)])
            case "activation":
                return np.mean([np.abs(h).mean() for h in columns])
            case "weight_magnitude":
                return np.mean(w_out)
            case "adaptation":
                return 1 / w_in
            case "gradient":
                return np.abs(change).sum()
            case "fisher":
                return (change**2).sum() * len(columns[0])
            case "zero_contribution" | "adaptable_contribution" | "deviation_by_input":
                unit.mean = rule.decay * unit.mean + (1 - rule.decay) * np.concatenate(columns).mean()
                mean = unit.mean / (1 - rule.decay**unit.age)
                deviations = [np.abs(h - mean).mean() for h in columns]
                if rule.utility == "deviation_by_input":
                    return np.mean(deviations) / w_in
                now = np.mean([d * w for d, w in zip(deviations, w_out, strict=True)])
                return now if rule.utility == "zero_contribution" else now / w_in
        return 0.0

    def scores(self, hidden):
        rule, units = hidden.rule, hidden.units
        if rule.utility == "random":
            return torch.rand(len(units), dtype=torch.float64, generator=self.generator).tolist()
        if rule.utility in {"dormancy", "gradient_magnitude"}:
            mean = sum(unit.period for unit in units) / len(units)
            return [unit.period / mean if mean else 0.0 for unit in units]
        if rule.utility == "inter_firing_time":
            everyone = [gap for unit in units for gap in unit.gaps]
            return [self.silence_score(unit, everyone, rule.prior_weight) for unit in units]
        return [unit.trace / (1 - rule.decay**unit.age) for unit in units]

    def silence_score(self, unit, everyone, weight):
        if not unit.silence or not everyone:
            return 1.0
        layer = sum(gap > unit.silence for gap in everyone) / len(everyone)
        return (sum(gap > unit.silence for gap in unit.gaps) + weight * layer) / (len(unit.gaps) + weight)

    def replace(self):
        chosen = {}
        deciding = {number: count for number, hidden in enumerate(self.hidden) if (count := self.count(hidden))}
        scores = {number: self.scores(self.hidden[number]) for number in deciding}
        for number, count in deciding.items():
            rule, units = self.hidden[number].rule, self.hidden[number].units
            mature = [i for i, unit in enumerate(units) if unit.age > rule.maturity]
            if rule.threshold is not None:
                mature = [i for i in mature if scores[number][i] <= rule.threshold]
            mature.sort(key=lambda i, score=scores[number], units=units: (score[i], -units[i].age, i))
            chosen[number] = mature[:count]
        for number, units in chosen.items():
            if units:
                self.edit(self.hidden[number], units)
                self.log.append((self.hidden[number].step, number, units))
            for unit in self.hidden[number].units:
                unit.period = 0.0

    def count(self, hidden):
        rule = hidden.rule
        if hidden.step % rule.every:
            return 0
        mature = sum(unit.age > rule.maturity for unit in hidden.units)
        if rule.threshold is not None or not mature:
            return mature
        hidden.due += rule.rate * mature
        whole = min(int(hidden.due), mature)
        hidden.due -= whole
        return whole

    @torch.no_grad()
    def edit(self, hidden, units):
        weight = hidden.writer.weight
        fresh = torch.rand(len(units) * weight[0].numel(), dtype=torch.float64, generator=self.generator)
        fresh = ((2 * fresh - 1) * hidden.bound).view(len(units), *weight.shape[1:])
        for i, row in zip(units, fresh, strict=True):
            weight[i] = row
            hidden.writer.bias[i] = 0.0
            for state in self.moments(weight):
                state[i] = 0.0
            for state in self.moments(hidden.writer.bias):
                state[i] = 0.0
            for c in hidden.columns(i):
                hidden.reader.weight[:, c] = 0.0
                for state in self.moments(hidden.reader.weight):
                    state[:, c] = 0.0
            hidden.units[i] = Unit()

    def moments(self, parameter):
        state = self.optimizer.state[parameter]
        return [value for value in state.values() if torch.is_tensor(value) and value.shape == parameter.shape]


def _array(tensor):
    return tensor.detach().numpy()
