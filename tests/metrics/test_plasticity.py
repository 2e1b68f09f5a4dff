import copy

import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.metrics.plasticity import SamplePlasticity


def losses():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 8, generator=generator), torch.rand(3, 8, generator=generator)


def expected(before, after, eps=1e-8):
    values = [
        max(1 - a / max(b, eps), 0) for b, a in zip(before.flatten().tolist(), after.flatten().tolist(), strict=True)
    ]
    return torch.tensor(sum(values) / len(values), dtype=torch.float64)


def test_it_is_the_mean_over_all_samples_of_all_batches():
    metric, (before, after) = SamplePlasticity(), losses()
    values = [metric(b, a) for b, a in zip(before, after, strict=True)]
    torch.testing.assert_close(values[1], expected(before[1], after[1]), rtol=1e-6, atol=0)
    torch.testing.assert_close(metric.compute(), expected(before, after), rtol=1e-6, atol=0)


def test_merged_metrics_are_as_one():
    before, after = losses()
    one, other = SamplePlasticity(), SamplePlasticity()
    one.update(before[0], after[0])
    other.update(before[1:], after[1:])
    one.merge_state(copy.deepcopy(other))
    torch.testing.assert_close(one.compute(), expected(before, after), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_without_samples_it_is_zero():
    metric = SamplePlasticity()
    assert metric.compute() == 0
    metric.update(torch.empty(0), torch.empty(0))
    assert metric.compute() == 0


def test_the_floor_counts():
    metric = SamplePlasticity(eps=0.5)
    metric.update(torch.tensor(0.1), torch.tensor(0.25))
    torch.testing.assert_close(metric.compute().item(), 0.5)


def test_losses_of_different_shapes_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"shapes \(3,\) and \(\).*one loss before.*same way"):
        SamplePlasticity().update(torch.rand(3), torch.tensor(1.0))


def test_losses_that_are_no_tensors_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"losses of the types float and float.*without `.item\(\)`"):
        SamplePlasticity().update(2.0, 1.0)


def test_a_floor_of_zero_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"eps=0.*in \(0, inf\).*Correct `eps`"):
        SamplePlasticity(eps=0)
