import pytest
import torch

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.experiments.panels import Panel, draw_panels, mean_and_error, seed_curves


def rows(**values):
    return [
        {"method": method, "seed": str(seed), "experience": str(k), "loss": str(value)}
        for method, seeds in values.items()
        for seed, series in enumerate(seeds)
        for k, value in enumerate(series)
    ]


def test_curves_are_means_of_bins_seed_by_seed():
    curves = seed_curves(rows(a=[[1, 3, 5], [2, 2, 8]], b=[[7]]), "loss", bin_width=2)
    torch.testing.assert_close(curves["a"], torch.tensor([[2.0, 5.0], [2.0, 8.0]]))
    torch.testing.assert_close(curves["b"], torch.tensor([[7.0, torch.nan]]), equal_nan=True)


def test_the_band_is_the_standard_error_of_the_seeds_that_are_there():
    nan = torch.nan
    mean, error = mean_and_error(torch.tensor([[1.0, 4.0, nan], [2.0, nan, nan], [6.0, nan, nan]]))
    torch.testing.assert_close(mean, torch.tensor([3.0, 4.0, nan]), equal_nan=True)
    expected = torch.tensor([1.0, 2.0, 6.0]).std() / 3**0.5
    torch.testing.assert_close(error, torch.tensor([float(expected), 0.0, 0.0]))


def drawn(monkeypatch, tmp_path, *arguments, **keywords):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    path = tmp_path / "figure.png"
    draw_panels(arguments[0], path, *arguments[1:], **keywords)
    assert path.stat().st_size > 1000
    return figures[0].axes


def test_a_panel_shows_the_difference_to_its_baseline_and_published_marks(monkeypatch, tmp_path):
    axes = drawn(
        monkeypatch,
        tmp_path,
        rows(a=[[1, 3], [2, 5]], b=[[1, 1]]),
        [Panel("loss", "loss"), Panel("loss", "relative", factor=100, baseline="b", marks={"paper": (2.0, 150.0)})],
        xlabel="task",
    )
    assert [list(line.get_ydata()) for line in axes[0].lines] == [[1.5, 4.0], [1.0, 1.0]]
    assert [list(line.get_ydata()) for line in axes[1].lines] == [[0.0, 200.0], [0.0, 0.0], [150.0]]
    assert list(axes[0].lines[0].get_xdata()) == [1.0, 2.0]
    assert axes[1].get_ylabel() == "relative"
    assert [text.get_text() for text in axes[1].get_legend().get_texts()][-1] == "paper"


def test_the_difference_is_that_of_equal_seeds_and_methods_keep_their_colours(monkeypatch, tmp_path):
    data = rows(a=[[1], [9]], b=[[1], [5]], c=[[0], [2]])
    data = [row for row in data if (row["method"], row["seed"]) not in {("a", "1"), ("c", "0")}]
    plain, relative = drawn(
        monkeypatch, tmp_path, data, [Panel("loss", "loss"), Panel("loss", "relative", baseline="c")], xlabel="task"
    )
    assert [list(line.get_ydata()) for line in relative.lines] == [[3.0], [0.0]]  # b and c have seed 1
    assert [line.get_color() for line in relative.lines] == [line.get_color() for line in plain.lines][1:]


def test_a_panel_without_rows_of_its_baseline_says_so(monkeypatch, tmp_path):
    (axis,) = drawn(monkeypatch, tmp_path, rows(a=[[1]]), [Panel("loss", "relative", baseline="b")], xlabel="task")
    assert not axis.lines
    assert [text.get_text() for text in axis.texts] == ["no rows of 'b'"]


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="no rows to draw"):
        draw_panels([], tmp_path / "figure.png", [Panel("loss", "loss")], xlabel="task")
