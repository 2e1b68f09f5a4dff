import math
from types import SimpleNamespace

import pytest


def sigmoid(value):
    if value < -700:
        return 0.0
    return 1.0 / (1.0 + math.exp(-value))


def upgd_oracle(weights, steps, noises, *, lr, weight_decay, decay_rate, scaling, correction, protecting, gate_scale,
                betas=None, eps=None):  # fmt: skip
    """Walk UPGD (or, with ``betas``, AdaUPGD) entry by entry from the equations, in Python floats.

    ``steps[t][p]`` is None or a pair of lists (gradient, curvature or None); ``noises[t][p]`` a list or None.
    ``weights[p]`` is a list of rows: the incoming weights of one unit each; it is changed in place.
    """
    zeros = [[[0.0] * len(row) for row in rows] for rows in weights]
    trace, first, second = ([[list(row) for row in rows] for rows in zeros] for _ in range(3))
    clock = [0] * len(weights)
    for step, noise in zip(steps, noises, strict=True):
        here = [p for p, given in enumerate(step) if given is not None]
        entries = [(p, i, j) for p in here for i, row in enumerate(weights[p]) for j in range(len(row))]
        for p in here:
            clock[p] += 1
        for p, i, j in entries:
            gradient, curvature = step[p]
            w, g = weights[p][i][j], gradient[i][j]
            now = -g * w + (0.0 if curvature is None else 0.5 * curvature[i][j] * w * w)
            trace[p][i][j] = decay_rate * trace[p][i][j] + (1 - decay_rate) * now
        corrected = {(p, i, j): trace[p][i][j] / (1 - decay_rate ** clock[p]) for p, i, j in entries}
        shown = corrected if correction == "paper" else {(p, i, j): trace[p][i][j] for p, i, j in entries}
        top = max((abs(v) if scaling == "abs" else v) for v in shown.values())
        for p, i, j in entries:
            divisor = max(top, 2.2250738585072014e-308)
            if scaling == "local":
                rows = [i] if len(weights[p]) > 1 else range(len(weights[p]))
                divisor = max(
                    math.sqrt(sum(corrected[p, r, k] ** 2 for r in rows for k in range(len(weights[p][r])))), 1e-12
                )
            gate = gate_scale * (1 - sigmoid(corrected[p, i, j] / divisor))
            g = step[p][0][i][j]
            if betas is not None:
                first[p][i][j] = betas[0] * first[p][i][j] + (1 - betas[0]) * g
                second[p][i][j] = betas[1] * second[p][i][j] + (1 - betas[1]) * g * g
                root = math.sqrt(second[p][i][j] / (1 - betas[1] ** clock[p]))
                g = first[p][i][j] / (1 - betas[0] ** clock[p]) / (root + eps)
            xi = 0.0 if noise[p] is None else noise[p][i][j]
            direction = (g + xi) * gate if protecting else g + xi * gate
            weights[p][i][j] = (1 - lr * weight_decay) * weights[p][i][j] - lr * direction


@pytest.fixture
def oracle():
    return SimpleNamespace(upgd=upgd_oracle)


class Given:
    """Curvature that is handed in."""

    def __init__(self):
        self.values, self.taken = {}, 0

    def take(self, parameter):
        self.taken += 1
        return self.values[parameter]


@pytest.fixture
def given_curvature():
    return Given()
