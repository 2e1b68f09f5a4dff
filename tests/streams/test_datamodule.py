import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import Dataset

from lightning_plasticity.errors import InvalidArgumentError, StateMismatchError
from lightning_plasticity.streams import StreamDataModule


def samples_per_epoch(seen, batches):
    return [
        sorted(round(100 * v) for _, batch in seen[i : i + batches] for v in batch)
        for i in range(0, len(seen), batches)
    ]


@pytest.mark.parametrize("preload", [False, True])
def test_one_fit_goes_through_every_sample_of_every_experience_once_per_epoch(stream, trainer, recorder, preload):
    datamodule = StreamDataModule(stream(4, 4, 4), epochs_per_experience=2, batch_size=2, preload=preload, seed=0)
    module = recorder(datamodule)
    trainer(max_epochs=datamodule.num_epochs).fit(module, datamodule=datamodule)
    expected = [[100 * k + i for i in range(4)] for k in (0, 0, 1, 1, 2, 2)]
    assert samples_per_epoch(module.seen, batches=2) == expected
    assert [k for k, _ in module.seen] == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("preload", [False, True])
def test_experiences_of_different_lengths_need_a_trainer_that_counts_anew(stream, trainer, recorder, preload):
    datamodule = StreamDataModule(stream(2, 6, 3), batch_size=2, preload=preload)
    module = recorder(datamodule)
    trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=datamodule)
    assert [len(batch) for _, batch in module.seen] == [2, 2, 2, 2, 2, 1]
    with pytest.raises(
        InvalidArgumentError, match=r"experience 2 has 2 batches, the Trainer counted 1.*every_n_epochs=1"
    ):
        trainer(max_epochs=3).fit(recorder(datamodule), datamodule=datamodule)


def test_an_odd_experience_in_the_middle_is_refused_rather_than_cut_short(stream, trainer, recorder):
    datamodule = StreamDataModule(stream(2, 6, 2), batch_size=2)
    with pytest.raises(InvalidArgumentError, match=r"experience 1 has 3 batches, the Trainer counted 1"):
        trainer(max_epochs=3).fit(recorder(datamodule), datamodule=datamodule)


def test_the_order_changes_per_epoch_and_depends_on_the_seed_alone(stream, trainer, recorder):
    orders = []
    for seed, preload in ((0, False), (0, True), (1, False)):
        datamodule = StreamDataModule(stream(8), epochs_per_experience=2, batch_size=8, preload=preload, seed=seed)
        module = recorder(datamodule)
        torch.manual_seed(seed + 17)
        trainer(max_epochs=2).fit(module, datamodule=datamodule)
        orders.append([batch for _, batch in module.seen])
    assert orders[0][0] != orders[0][1]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_without_shuffling_the_order_is_that_of_the_dataset(stream, trainer, recorder):
    for preload in (False, True):
        datamodule = StreamDataModule(stream(5, 5), batch_size=5, shuffle=False, preload=preload)
        module = recorder(datamodule)
        trainer(max_epochs=2).fit(module, datamodule=datamodule)
        assert [[round(100 * v) for v in batch] for _, batch in module.seen] == [
            [0, 1, 2, 3, 4],
            [100, 101, 102, 103, 104],
        ]


def test_the_global_generator_is_left_alone(stream):
    datamodule = StreamDataModule(stream(6), batch_size=2, seed=0)
    before = torch.get_rng_state()
    list(datamodule.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


class Saver(pl.Callback):
    """Saves every epoch, where ``ModelCheckpoint`` would; without a state that a resumed run would have to match."""

    def __init__(self, folder, hook):
        self.folder, self.hook = folder, hook

    def on_train_epoch_end(self, trainer, pl_module):
        if self.hook == "train_end":
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")

    def on_validation_end(self, trainer, pl_module):
        if self.hook == "validation_end":
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("hook", ["train_end", "validation_end"])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 4, 6)])
@pytest.mark.parametrize("epoch", range(5))
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    stream, trainer, evaluating_recorder, tmp_path, epoch, sizes, hook
):
    def datamodule(seed):
        return StreamDataModule(stream(*sizes), 2, batch_size=2, eval_experiences=stream(*sizes), seed=seed)

    def run(*callbacks, seed=0, ckpt_path=None):
        data = datamodule(seed)
        module = evaluating_recorder(data)
        trainer(
            max_epochs=6,
            callbacks=list(callbacks),
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=int(len(set(sizes)) > 1),
        ).fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    whole = run(Saver(tmp_path, hook))
    resumed = run(seed=99, ckpt_path=tmp_path / f"{epoch}.ckpt")  # the seed of the order comes from the checkpoint
    assert whole.seen[-len(resumed.seen) :] == resumed.seen
    assert len(resumed.seen) == sum(sizes[e // 2] // 2 for e in range(epoch + 1, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_a_stream_of_another_length_is_refused(stream):
    saved = StreamDataModule(stream(4, 4)).state_dict()
    with pytest.raises(StateMismatchError, match=r"`num_experiences=2`.*`num_experiences=3`"):
        StreamDataModule(stream(4, 4, 4)).load_state_dict(saved)
    with pytest.raises(StateMismatchError, match=r"`epochs_per_experience=1`.*`epochs_per_experience=2`"):
        StreamDataModule(stream(4, 4), epochs_per_experience=2).load_state_dict(saved)


def test_validation_follows_the_current_experience_or_visits_all(stream, trainer, evaluating_recorder):
    for evaluate, expected in (
        ("current", [(0, 0), (1, 0), (2, 0)]),
        ("all", [(k, d) for k in range(3) for d in range(3)]),
    ):
        datamodule = StreamDataModule(
            stream(4, 4, 4), batch_size=4, eval_experiences=stream(2, 2, 2), evaluate=evaluate
        )
        module = evaluating_recorder(datamodule)
        trainer(max_epochs=3, num_sanity_val_steps=0).fit(module, datamodule=datamodule)
        assert [(k, d) for k, d, _ in module.evaluated] == expected
        place = [k if evaluate == "current" else d for k, d in expected]
        assert [[round(100 * v) for v in batch] for *_, batch in module.evaluated] == [
            [100 * k, 100 * k + 1] for k in place
        ]


def test_an_incomplete_batch_is_left_out_on_request(stream):
    for preload in (False, True):
        datamodule = StreamDataModule(stream(5), batch_size=2, drop_last=True, preload=preload)
        loader = datamodule.train_dataloader()
        assert [len(x) for x, _ in loader] == [2, 2]
        assert len(loader) == 2


class CountsReads(Dataset):
    def __init__(self, reads, place):
        self.reads, self.place = reads, place

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.reads[self.place] += 1
        return torch.tensor([float(index), 1.0]), index % 3


def test_a_preloaded_experience_is_read_once_whatever_its_epochs(trainer, recorder):
    reads = [0, 0]
    datamodule = StreamDataModule([CountsReads(reads, 0), CountsReads(reads, 1)], 3, batch_size=1, preload=True)
    module = recorder(datamodule)
    trainer(max_epochs=6, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=datamodule)
    assert reads == [3, 3]
    assert len(module.seen) == 18
    assert all(len(batch) == 1 for _, batch in module.seen)


@pytest.mark.parametrize("epochs", [7, -1])
def test_a_trainer_that_outlasts_the_stream_is_refused(stream, trainer, recorder, epochs):
    datamodule = StreamDataModule(stream(4, 4), epochs_per_experience=3)
    found = rf"max_epochs={epochs}.*at most 6: 2 experiences of 3 epochs.*num_epochs"
    with pytest.raises(InvalidArgumentError, match=found):
        trainer(max_epochs=epochs).fit(recorder(datamodule), datamodule=datamodule)


def test_the_number_that_lightning_takes_by_itself_is_called_so(stream, trainer, recorder):
    datamodule = StreamDataModule(stream(4, 4))
    with pytest.raises(InvalidArgumentError, match=r"max_epochs=1000\)`, perhaps by default"):
        trainer(max_epochs=1000).fit(recorder(datamodule), datamodule=datamodule)


def test_a_stream_can_be_printed(stream):
    assert str(StreamDataModule(stream(4, 4), epochs_per_experience=3)) == "StreamDataModule(2 experiences of 3 epochs)"


def test_a_trainer_that_leaves_experiences_out_is_warned_of(stream, trainer, recorder):
    datamodule = StreamDataModule(stream(4, 4), epochs_per_experience=3, batch_size=4)
    with pytest.warns(UserWarning, match=r"max_epochs=5\)` ends before the stream, which needs 6: 2 experiences of 3"):
        trainer(max_epochs=5).fit(recorder(datamodule), datamodule=datamodule)


def test_a_trainer_that_is_told_to_stop_early_is_not_warned_of(stream, trainer, recorder):
    for limits in ({"max_epochs": 6, "max_steps": 2}, {"max_epochs": 3, "max_steps": 2}, {"fast_dev_run": True}):
        datamodule = StreamDataModule(stream(4, 4), epochs_per_experience=3, batch_size=4)
        module = recorder(datamodule)
        trainer(**limits).fit(module, datamodule=datamodule)
        assert len(module.seen) == limits.get("max_steps", 1)


def test_a_stream_that_ends_before_max_steps_says_so(stream, trainer, recorder):
    datamodule = StreamDataModule(stream(4, 4), batch_size=4)
    with pytest.raises(InvalidArgumentError, match=r"epoch 2 .*`max_epochs=datamodule.num_epochs`"):
        trainer(max_steps=5).fit(recorder(datamodule), datamodule=datamodule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0.*in \[1, inf\)"),
        ({"epochs_per_experience": 0}, r"epochs_per_experience=0.*in \[1, inf\)"),
        ({"evaluate": "last"}, r"evaluate='last'.*'current' or 'all'"),
        ({"experiences": []}, r"`experiences` is an empty list"),
        ({"experiences": iter([])}, r"`experiences` is a list_iterator.*benchmark\.train_stream"),
    ],
)
def test_bad_arguments_are_refused(stream, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        StreamDataModule(**({"experiences": stream(4)} | arguments))


def test_streams_of_different_lengths_cannot_evaluate_each_other(stream):
    with pytest.raises(InvalidArgumentError, match=r"1 `eval_experiences` for 2 `experiences`"):
        StreamDataModule(stream(4, 4), eval_experiences=stream(4))


def test_an_empty_experience_is_refused_by_its_place(stream):
    with pytest.raises(InvalidArgumentError, match=r"`experiences\[1\]` has no samples"):
        list(StreamDataModule(stream(4, 0))._train)
