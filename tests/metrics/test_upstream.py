"""Torchmetrics' own metric tester, which is not in its wheel, on our metrics.

Point ``TORCHMETRICS_SOURCE`` to a checkout of torchmetrics and install ``cachier`` to run these::

    TORCHMETRICS_SOURCE=~/torchmetrics USE_PYTEST_POOL=1 pytest tests/metrics/test_upstream.py

Upstream's tester feeds predictions and targets; the shims below take the first as features and ignore the second.
"""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from metric_cases import FEATURE_METRICS

SOURCE = os.environ.get("TORCHMETRICS_SOURCE")
if SOURCE is None:
    pytest.skip("TORCHMETRICS_SOURCE does not point to a checkout of torchmetrics", allow_module_level=True)

sys.path.insert(0, str(Path(SOURCE) / "tests"))
testers = pytest.importorskip("unittests._helpers.testers", reason="the tester needs the package `cachier`")

BATCHES, SAMPLES, SIZE = 4, 20, 6
FEATURES = torch.randn(BATCHES, SAMPLES, SIZE, dtype=torch.float64).relu()
IGNORED = torch.zeros(BATCHES, SAMPLES)


def shim(cls):
    """Return a subclass that takes, and ignores, targets."""

    class Shim(cls):
        def update(self, preds, target):
            super().update(preds)

    Shim.__name__ = Shim.__qualname__ = cls.__name__
    return Shim


SHIMS = {name: shim(cls) for name, (cls, _, _) in FEATURE_METRICS.items()}


def reference(preds, target, twin, options):
    return twin(torch.as_tensor(preds).reshape(-1, SIZE), **options).numpy()


@pytest.mark.parametrize("name", FEATURE_METRICS)
class TestUpstream(testers.MetricTester):
    atol = 1e-9

    def test_class(self, name):
        _, twin, options = FEATURE_METRICS[name]
        self.run_class_metric_test(
            ddp=False,
            preds=FEATURES,
            target=IGNORED,
            metric_class=SHIMS[name],
            reference_metric=partial(reference, twin=twin, options=options),
            metric_args=options,
            check_scriptable=False,
        )

    def test_half_precision(self, name):
        _, twin, options = FEATURE_METRICS[name]
        self.run_precision_test_cpu(FEATURES, IGNORED, SHIMS[name], lambda p, t, **k: twin(p, **k), metric_args=options)
