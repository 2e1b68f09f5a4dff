"""The quickstart runs to its end, in little, and leaves a figure, tables and TensorBoard logs that can be read back."""

import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
LAYERS = {"net.0", "net.2", "net.4"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    command += ["--seeds", "1", "--max-steps", "228", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_a_table_of_both_methods_and_the_way_to_tensorboard_are_printed(run):
    out, text = run
    assert "backprop" in text
    assert "continual" in text
    assert f"tensorboard --logdir {out}" in text


def test_a_figure_is_drawn(run):
    out, _ = run
    assert (out / "quickstart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["backprop", "continual_backprop"])
def test_tensorboard_holds_a_series_per_layer_for_every_metric(run, method):
    out, _ = run
    events = EventAccumulator(str(out / method / "seed_0")).Reload()
    series = {tag for tag in events.Tags()["scalars"] if tag.startswith("plasticity/")}
    for metric in ("effective_rank", "dormant_unit_ratio", "weight_magnitude"):
        assert {f"plasticity/{metric}/{layer}" for layer in LAYERS} <= series
    ranks = [point.value for point in events.Scalars("plasticity/effective_rank/net.0")]
    assert len(ranks) == 2
    assert all(1 < rank <= 64 for rank in ranks)


def test_units_are_replaced_only_where_the_callback_is(run):
    out, _ = run
    tags = {
        m: EventAccumulator(str(out / m / "seed_0")).Reload().Tags()["scalars"]
        for m in ("backprop", "continual_backprop")
    }
    assert not [tag for tag in tags["backprop"] if "replace" in tag]
    assert [tag for tag in tags["continual_backprop"] if "replace" in tag]
