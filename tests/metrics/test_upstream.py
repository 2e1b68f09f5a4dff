"""Torchmetrics' own metric tester, which is not in its wheel, on our metrics.

Point ``TORCHMETRICS_SOURCE`` to a checkout of torchmetrics and install ``cachier`` to run these::

    TORCHMETRICS_SOURCE=~/torchmetrics pytest -n 0 tests/metrics/test_upstream.py

Upstream's tester feeds predictions and targets; the shims below take the first as features and ignore the second.
"""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from support.metric_cases import FEATURE_METRICS

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

    def update(self, preds, target):
        cls.update(self, preds)

    return type(cls.__name__, (cls,), {"update": update, "__module__": __name__})


SHIMS = {cls: shim(cls) for cls, _, _ in FEATURE_METRICS.values()}
globals().update({cls.__name__: of_cls for cls, of_cls in SHIMS.items()})  # where pickle looks for them


def reference(preds, target, twin, options):
    return twin(torch.as_tensor(preds).reshape(-1, SIZE), **options).numpy()


@pytest.mark.parametrize("name", FEATURE_METRICS)
class TestUpstream(testers.MetricTester):
    atol = 1e-9

    def test_class(self, name):
        cls, twin, options = FEATURE_METRICS[name]
        self.run_class_metric_test(
            ddp=False,  # two processes have a test of their own, also with an idle one
            preds=FEATURES,
            target=IGNORED,
            metric_class=SHIMS[cls],
            reference_metric=partial(reference, twin=twin, options=options),
            metric_args=options,
            check_scriptable=False,
        )

    def test_half_precision(self, name):
        cls, twin, options = FEATURE_METRICS[name]
        self.run_precision_test_cpu(FEATURES, IGNORED, SHIMS[cls], lambda p, t, **k: twin(p, **k), metric_args=options)

    def test_differentiability(self, name):
        cls, _, options = FEATURE_METRICS[name]
        self.run_differentiability_test(FEATURES.clone(), IGNORED, SHIMS[cls], metric_args=options)
