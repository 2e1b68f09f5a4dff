"""Figures are drawn from the logs that a Trainer's loggers write."""

import matplotlib as mpl
import matplotlib.pyplot
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_plasticity import plots
from lightning_plasticity.errors import InvalidArgumentError

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    mpl.pyplot.close("all")


def written(logger, offset=0.0):
    for step in (0, 10, 20):
        values = {f"plasticity/dormant_unit_ratio/net.{layer}": (step + layer) / 100 for layer in (10, 9, 0)}
        values |= {"plasticity/dormant_unit_ratio/mean": step / 100 + offset, "plasticity/experience": step // 10}
        logger.log_metrics(values, step=step)
    logger.save()
    logger.finalize("success")
    return logger.log_dir


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_both_loggers_are_read_alike(tmp_path, logger):
    log = plots.read_log(written(logger(tmp_path)))
    steps, values = log["plasticity/dormant_unit_ratio/net.9"]
    assert steps == [0, 10, 20]
    assert values == pytest.approx([0.09, 0.19, 0.29])


def test_curves_show_the_mean_over_runs_and_its_spread(tmp_path):
    logs = [plots.read_log(written(CSVLogger(tmp_path / str(run)), offset=run / 10)) for run in (0, 2)]
    axes = plots.plot_curves({"backprop": logs, "other": logs[:1]}, "plasticity/dormant_unit_ratio/mean")
    assert axes.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1 - 0.02**0.5, 0.3 + 0.02**0.5))
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["backprop (2 runs)", "other"]


def test_curves_can_be_drawn_per_experience(tmp_path):
    log = plots.read_log(written(CSVLogger(tmp_path)))
    axes = plots.plot_curves({"": [log]}, "plasticity/dormant_unit_ratio/mean", against="plasticity/experience")
    assert list(axes.lines[0].get_xdata()) == [0, 1, 2]
    assert axes.get_xlabel() == "experience"


def test_layers_are_rows_in_the_order_of_the_network(tmp_path):
    axes = plots.plot_layers(plots.read_log(written(CSVLogger(tmp_path))))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["net.0", "net.9", "net.10"]
    grid = axes.collections[0].get_array()
    assert grid[1].tolist() == pytest.approx([0.09, 0.19, 0.29])
    assert axes.yaxis_inverted()


def test_a_layer_that_was_not_measured_stays_blank():
    log = {"plasticity/effective_rank/a": ([0, 5], [1.0, 2.0]), "plasticity/effective_rank/b": ([5], [3.0])}
    grid = plots.plot_layers(log, "effective_rank").collections[0].get_array()
    assert grid.mask.tolist() == [[False, False], [True, False]]


def test_a_spectrum_is_one_falling_curve_per_step():
    axes = plots.plot_spectrum({0: torch.tensor([4.0, 2.0, 0.0]), 100: torch.tensor([8.0, 1.0])})
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 0.5], [1.0, 0.125]]
    assert axes.get_yscale() == "log"


def test_given_axes_are_drawn_into():
    _, axes = mpl.pyplot.subplots()
    assert plots.plot_spectrum({0: torch.ones(2)}, ax=axes) is axes


def test_the_last_value_at_a_step_stands(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,x\n10,2.0\n5,1.0\n10,3.0\n")
    assert plots.read_log(file) == {"x": ([5, 10], [1.0, 3.0])}


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"no log in .*`log_dir`"):
        plots.read_log(tmp_path)


def test_a_value_that_was_not_logged_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"'y', which was not logged.*\['x'\]"):
        plots.plot_curves({"a": [{"x": ([0], [1.0])}]}, "y")


def test_a_metric_that_was_not_logged_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"a layer of 'stable_rank'.*\['effective_rank'\]"):
        plots.plot_layers({"plasticity/effective_rank/a": ([0], [1.0]), "loss": ([0], [1.0])}, "stable_rank")


def test_other_values_per_layer_are_drawn_too():
    log = {f"unit_replacement/replaced/{layer}": ([0, 5], [1.0, layer]) for layer in (0, 2)}
    assert plots.plot_layers(log, "replaced").collections[0].get_array().tolist() == [[1.0, 0.0], [1.0, 2.0]]


def test_no_spectra_are_refused():
    with pytest.raises(InvalidArgumentError, match="no spectra"):
        plots.plot_spectrum({})
