import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.functional.plasticity import sample_plasticity


def test_the_share_of_the_loss_that_is_gone():
    before, after = torch.tensor([4.0, 4.0, 4.0]), torch.tensor([1.0, 4.0, 0.0])
    assert sample_plasticity(before, after).tolist() == [0.75, 0.0, 1.0]


def test_an_update_that_harms_counts_as_none():
    assert sample_plasticity(torch.tensor(1.0), torch.tensor(5.0)) == 0


def test_a_loss_of_zero_divides_by_the_floor():
    assert sample_plasticity(torch.tensor(0.0), torch.tensor(0.0)) == 1
    torch.testing.assert_close(sample_plasticity(torch.tensor(0.0), torch.tensor(0.05), eps=0.1), torch.tensor(0.5))
    assert sample_plasticity(torch.tensor(0.0), torch.tensor(1.0)) == 0


def test_no_share_of_a_negative_loss_can_be_gone():
    found = sample_plasticity(torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([-0.5, 0.5, -0.5]))
    assert found.isnan().all()


@pytest.mark.parametrize(("after", "message"), [(1.0, "types Tensor and float"), (torch.ones(2), r"\(\) and \(2,\)")])
def test_losses_that_do_not_belong_together_are_refused(after, message):
    with pytest.raises(InvalidArgumentError, match=message):
        sample_plasticity(torch.tensor(2.0), after)
