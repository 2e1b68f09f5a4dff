import lightning.pytorch as pl
import pytest
import torch
from support.stream_runs import Network, Saver, fit, stream
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_plasticity.callbacks.layer_reset import FromScratch, LayerReset, resettable_layers
from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError

HEAD = ("3.weight", "3.bias")


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


class AtEnd(pl.Callback):
    """Writes down the tensors at the end of every epoch."""

    def __init__(self):
        self.tensors = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.tensors.append(pl_module.snapshot())


class Memory(pl.Callback):
    """Writes down for which parameters the optimizer keeps something at the beginning of every epoch."""

    def __init__(self):
        self.kept = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.kept.append([p in trainer.optimizers[0].state for p in pl_module.net.parameters()])


def test_the_head_is_redrawn_at_every_change_of_experience_and_nothing_else():
    end = AtEnd()
    module = fit(Network(), LayerReset("net.3", seed=1), end)
    for epoch in range(1, 6):
        assert changed(end.tensors[epoch - 1], module.at_start[epoch]) == (set(HEAD) if epoch in (2, 4) else set())
    assert not torch.equal(module.at_start[2]["3.weight"], module.at_start[4]["3.weight"])


def test_a_head_that_was_reset_is_the_same_parameter_and_goes_on_learning():
    module, end = Network(), AtEnd()
    before = [id(parameter) for parameter in module.parameters()]
    fit(module, LayerReset("net.3", seed=1), end)
    assert [id(parameter) for parameter in module.parameters()] == before
    for epoch in (2, 4):
        assert changed(module.at_start[epoch], end.tensors[epoch]) >= set(HEAD)


def test_a_first_reset_and_an_initializer_give_a_head_of_zeros():
    def zero(layer):
        for parameter in layer.parameters(recurse=False):
            parameter.zero_()

    module = fit(Network(), LayerReset(["net.3"], initializer=zero, first=True))
    for epoch in range(6):
        assert all((module.at_start[epoch][name] == 0).all() == (epoch % 2 == 0) for name in HEAD)


def test_from_scratch_draws_everything_and_forgets_norm_statistics():
    module = fit(Network(), FromScratch(seed=0))
    fresh = Network().snapshot()
    for epoch in (2, 4):
        start = module.at_start[epoch]
        for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
            assert torch.equal(start[name], fresh[name]), name
        for name in ("0.weight", "0.bias", *HEAD):
            assert not torch.equal(start[name], module.at_start[epoch - 1][name])
            assert start[name].abs().max() <= (3 if name[0] == "0" else 4) ** -0.5  # torch's initial bound


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_the_optimizer_forgets_the_layers_that_were_reset_and_no_others(optimizer):
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    for forget in (True, False):
        memory = Memory()
        fit(Network(optimizer, **settings), LayerReset("net.3", reset_optimizer=forget), memory)
        assert memory.kept[0] == [False] * 6
        assert memory.kept[1] == memory.kept[3] == [True] * 6
        assert memory.kept[2] == memory.kept[4] == [True] * 4 + [not forget] * 2


def test_torchs_global_generator_is_left_alone():
    after = []
    for callbacks in ([], [FromScratch(seed=3)]):
        torch.manual_seed(5)
        fit(Network(), *callbacks)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_draws_what_an_uninterrupted_one_would(tmp_path, epoch):
    whole = fit(Network(torch.optim.Adam), FromScratch(seed=1), Saver(tmp_path))
    resumed = fit(Network(torch.optim.Adam), FromScratch(seed=2), ckpt_path=tmp_path / f"{epoch}.ckpt")
    assert not changed(whole.snapshot(), resumed.snapshot())


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"'net\.7' in `include` matches no layer.*'net\.0'"):
        fit(Network(), LayerReset("net.7"))
    with pytest.raises(InvalidArgumentError, match=r"include=\[\].*one or several patterns"):
        LayerReset([])


def test_a_name_stands_for_the_layers_below_it_and_not_for_its_neighbours():
    model = nn.Sequential()
    model.add_module("head", nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    model.add_module("header", nn.Linear(2, 2))
    assert resettable_layers(model, ["head"]) == [model.head[0], model.head[2]]
    assert resettable_layers(model, ["h*.2", "header"]) == [model.head[2], model.header]


def test_an_initializer_is_a_function():
    with pytest.raises(InvalidArgumentError, match=r"initializer='xavier'.*a function of a layer.*`reset_parameters`"):
        LayerReset("*", initializer="xavier")


def test_a_layer_that_cannot_be_reset_is_refused_by_name():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(2))

    module = Network()
    module.net.append(Shift())
    with pytest.raises(UnsupportedModelError, match=r"\['net\.4'\].*`initializer`"):
        fit(module, FromScratch())


def test_a_fit_without_a_stream_is_refused():
    loader = DataLoader(TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    for callback in (LayerReset("net.3"), FromScratch()):
        with pytest.raises(InvalidArgumentError, match="StreamDataModule"):
            fit(Network(), callback, train_dataloaders=loader)


def test_two_resets_keep_their_own_seeds(tmp_path):
    fit(Network(), LayerReset("net.0", seed=3), LayerReset("net.3", seed=4), Saver(tmp_path), datamodule=stream())
    first, second = LayerReset("net.0", seed=9), LayerReset("net.3", seed=9)
    fit(Network(), first, second, datamodule=stream(), ckpt_path=tmp_path / "0.ckpt")
    assert (first.seed, second.seed) == (3, 4)
