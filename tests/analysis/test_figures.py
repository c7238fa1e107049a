"""The figure shows the numbers of the runs, in the same colours every time."""

from __future__ import annotations

import pytest
from made_runs import VIT, make_base, make_run

from stitching import list_runs, load_results
from stitching.analysis.plots.accuracy import plot_accuracy_by_gap
from stitching.analysis.plots.curves import plot_setting
from stitching.analysis.plots.heatmaps import plot_progress
from stitching.analysis.plots.style import adapter_look, save_figure
from stitching.config.errors import UserError
from stitching.sweeps.stitchers import STITCHERS

LR = "train_config.optimizer_args.lr"


def _drawn(axis):
    """What an axis shows: by label, the heights of the line's points and its colour."""
    drawn = {}
    for container in axis.containers:
        line, label = container.lines[0], container.get_label()
        drawn[label] = ([round(y, 6) for y in line.get_ydata()], line.get_color())
    return drawn


def test_it_shows_every_pair_gap_and_stitcher(tmp_path):
    make_run(tmp_path, "a", 0.5)
    make_run(tmp_path, "b", 0.7, gap=(3, 4))
    make_run(tmp_path, "c", 0.9, adapter="finetune")
    make_run(tmp_path, "d", 0.3, pair=(VIT, VIT))
    for name, accuracy in (("resnet18", 0.97), ("vit_tiny", 0.95)):
        make_base(tmp_path / name, accuracy, {"Net": {"backend": "timm", "model_name": name}})
    figure = plot_accuracy_by_gap(load_results(tmp_path))
    first, second = figure.axes
    assert first.get_title() == "resnet18 → vit_tiny"
    assert [label.get_text() for label in first.get_xticklabels()] == ["1–2", "3–4"]
    drawn = _drawn(first)
    assert drawn["affine"][0] == [0.5, 0.7]
    assert len(first.containers) == 2  # one line from 1–2 to 3–4
    assert drawn["finetune"][0] == [0.9]
    assert {line.get_ydata()[0] for line in first.lines if "alone" in line.get_label()} == {0.97, 0.95}
    assert _drawn(second)["affine"][0] == [0.3]
    assert {line.get_ydata()[0] for line in second.lines if "alone" in line.get_label()} == {0.95}
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "affine", "finetune", "destination alone", "source alone",
    }  # fmt: skip


def test_bars_are_95_percent_intervals_over_seeds(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        make_run(tmp_path, f"a{seed}", accuracy, seed=seed)
    (axis,) = plot_accuracy_by_gap(load_results(tmp_path)).axes
    assert _drawn(axis)["affine"][0] == [0.6]
    (bar,) = axis.containers[0].lines[2][0].get_segments()
    assert list(bar[:, 1]) == pytest.approx([0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5])


def test_settings_are_lines_of_their_own(tmp_path):
    make_run(tmp_path, "a", 0.5, **{LR: 0.1})
    make_run(tmp_path, "b", 0.7, **{LR: 0.01})
    (axis,) = plot_accuracy_by_gap(load_results(tmp_path)).axes
    drawn = _drawn(axis)
    assert {label: heights for label, (heights, _) in drawn.items()} == {
        "affine, lr=0.1": [0.5],
        "affine, lr=0.01": [0.7],
    }
    assert len({colour for _, colour in drawn.values()}) == 1
    assert [container.lines[0].get_linestyle() for container in axis.containers] == ["-", "--"]


def test_a_long_legend_explains_adapters_and_settings_apart(tmp_path):
    adapters, choices = ("affine", "finetune", "downsample_then_linear"), ((0.1, 0.0), (0.1, 0.5), (0.01, 0.0))
    for adapter in adapters:
        for lr, decay in choices:
            more = {LR: lr, "train_config.optimizer_args.weight_decay": decay}
            make_run(tmp_path, f"{adapter}-{lr}-{decay}", 0.5, adapter=adapter, **more)
    figure = plot_accuracy_by_gap(load_results(tmp_path))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(words) == sorted([*adapters, *(f"lr={lr:g}, weight_decay={decay:g}" for lr, decay in choices)])
    looks = [
        (container.lines[0].get_color(), container.lines[0].get_marker()) for container in figure.axes[0].containers
    ]
    assert len(set(looks)) == 9
    assert len({colour for colour, _ in looks}) == 3


def test_a_stitcher_has_one_look_everywhere(tmp_path):
    make_run(tmp_path, "a", 0.5)
    (axis,) = plot_accuracy_by_gap(load_results(tmp_path)).axes
    alone = _drawn(axis)["affine"][1]
    make_run(tmp_path, "b", 0.5, adapter="downsample_then_linear")
    (axis,) = plot_accuracy_by_gap(load_results(tmp_path)).axes
    assert {container.lines[0].get_linestyle() for container in axis.containers} == {"-"}
    assert _drawn(axis)["affine"][1] == alone == adapter_look("affine").colour
    looks = [adapter_look(name) for name in STITCHERS]
    assert len({(look.colour, look.marker, look.is_filled) for look in looks}) == len(looks)


def test_a_name_with_dollar_signs_is_no_formula(tmp_path):
    make_run(tmp_path, "a", 0.5, pair=("timm/$x_1$", r"timm/$\no{$"), adapter="$a_1$", **{LR: "$b$"})
    make_run(tmp_path, "b", 0.6, pair=("timm/$x_1$", r"timm/$\no{$"), adapter="$a_1$", **{LR: "\x1b[2J"})
    for plot in (plot_accuracy_by_gap, plot_progress, plot_setting):
        figure = plot(list_runs(tmp_path) if plot is plot_progress else load_results(tmp_path))
        save_figure(figure, tmp_path / "figure.svg")
        drawn = (tmp_path / "figure.svg").read_text()
        assert "$x_1$" in drawn  # the comment beside a text
        assert "\x1b" not in drawn


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_it_is_saved(tmp_path, ending):
    make_run(tmp_path, "a", 0.5)
    path = tmp_path / f"figure.{ending}"
    save_figure(plot_accuracy_by_gap(load_results(tmp_path)), path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["figure.txt", "nowhere/figure.png"])
def test_a_path_that_cannot_be_written_is_told(tmp_path, name):
    make_run(tmp_path, "a", 0.5)
    with pytest.raises(UserError, match="cannot write the figure"):
        save_figure(plot_accuracy_by_gap(load_results(tmp_path)), tmp_path / name)
