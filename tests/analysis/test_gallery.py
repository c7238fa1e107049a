"""Every figure draws a half-finished sweep and the smallest one; what cannot be drawn is told."""

from __future__ import annotations

import pytest
from made_runs import RESNET, VIT, make_base, make_run
from matplotlib.figure import Figure
from user_errors import assert_user_error

from stitching import list_runs, load_results
from stitching.analysis.plots.curves import plot_setting
from stitching.analysis.plots.gallery import FIGURES, draw
from stitching.analysis.plots.heatmaps import plot_penalties, plot_progress
from stitching.analysis.plots.style import save_figure
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY, StepLog

LR = "train_config.optimizer_args.lr"
SIZE = {"source_depth": 0.25, "destination_depth": 0.5, "parameters": 10**6, "macs": 10**9}


def _bases(folder):
    for name, accuracy in (("resnet18", 0.9), ("vit_tiny", 0.8)):
        make_base(folder / name, accuracy, {"Net": {"backend": "timm", "model_name": name}})


@pytest.fixture
def smallest(tmp_path):
    make_run(tmp_path, "a", 0.5, **SIZE)
    _bases(tmp_path)
    return tmp_path


@pytest.fixture
def half_finished(tmp_path):
    """Two pairs, not the same gaps and adapters in both, two rates, some runs failed, going or not started."""
    states = {"done": 0.6, "running": 0.3, "failed": None, "submitted": None}
    for pair in ((RESNET, VIT), (VIT, RESNET)):
        for gap in ((1, 2), (3, 4)):
            for number, (state, accuracy) in enumerate(states.items()):
                for seed, adapter in enumerate(("affine", "finetune")):
                    if pair[0] == VIT and (adapter == "finetune" or gap == (3, 4)):
                        continue
                    name = f"{pair[0][-3:]}{gap[0]}{number}{seed}"
                    run = make_run(tmp_path, name, accuracy or 0, pair=pair, gap=gap, adapter=adapter, seed=number,
                                   state=state, **SIZE, **{LR: [0.1, 0.001][seed]})  # fmt: skip
                    if accuracy is None:
                        (run / "result.parquet").unlink()
                    else:
                        row = {"Step": 1, "Epoch": 1, ACCURACY: accuracy, "Overall/Val Accuracy": 0.5}
                        StepLog([row | {"Overall/Test Agreement": 0.5}]).save(run / "result.pkl")
    _bases(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"cross-test"}))  # tests/sweeps/test_cross_test.py draws it
def test_half_finished(half_finished, name):
    figure = draw(name, half_finished)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("setting", "best-adapters", "cross-test")])
def test_smallest(smallest, name):
    draw(name, smallest).draw_without_rendering()


def _numbers(axis):
    return {tuple(map(round, text.get_position())): text.get_text() for text in axis.texts}


def test_the_penalty_is_in_percentage_points_and_missing_cells_are_blank(half_finished):
    second, first = plot_penalties(load_results(half_finished)).axes[:2]
    assert first.get_title() == "resnet18 → vit_tiny"
    assert set(_numbers(first).values()) == {"20.0"}
    assert len(_numbers(first)) == 4
    assert list(_numbers(second).values()) == ["30.0"]


def test_a_group_with_a_run_without_a_number_is_marked(smallest):
    run = make_run(smallest, "bad", 0.5, seed=2, epoch=5, **SIZE)
    StepLog([{"Step": 1, "Epoch": 5, "Loss": 1.0, ACCURACY: float("nan")}]).save(run / "result.pkl")
    label = "a finished run without a number (NaN), in no mean"
    for name in ("gap", "depth", "parameters", "source-stage", "learning-curves"):
        figure = draw(name, smallest)
        figure.draw_without_rendering()
        assert label in [text.get_text() for text in figure.legends[0].get_texts()], name
        (cross,) = [line for line in figure.axes[0].lines if line.get_label() == label]
        assert len(cross.get_xdata()) == 1
    for name in ("penalties", "depths"):
        note = draw(name, smallest)._supxlabel.get_text().replace("\n", " ")
        assert "1 finished run has no test accuracy (NaN), and is in no mean: bad." in note


def test_intervals_say_what_they_cover(half_finished):
    words = "95% intervals over seeds of the adapter (Student's t), base networks fixed"
    for name in ("gap", "depth", "macs", "source-stage", "agreement", "learning-curves", "setting"):
        note = draw(name, half_finished).legends[0].get_title().get_text()
        assert words in note.replace("\n", " "), name


def test_progress_is_drawn_where_nothing_was_logged_yet(cli, tmp_path):
    run = make_run(tmp_path / "sweep", "a", 0.5, state="submitted")
    for file in run.glob("result.*"):
        file.unlink()
    outcome = cli("plot", tmp_path / "sweep", "--figure", "progress", "-o", tmp_path / "out.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_progress_counts_runs(half_finished):
    second, first = plot_progress(list_runs(half_finished)).axes
    assert set(_numbers(first).values()) == {"1/4"}
    assert len(_numbers(first)) == 4
    assert len(_numbers(second)) == 1


def test_more_gaps_than_can_be_read_beside_each_other_are_told(tmp_path):
    for last in range(1, 18):
        make_run(tmp_path, str(last), 0.5, gap=(1, last))
    with pytest.raises(UserError, match="17 gaps are too many"):
        draw("learning-curves", tmp_path)
    labels = draw("gap", tmp_path).axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {90}


def test_a_setting_is_the_axis_and_no_line_of_its_own(tmp_path):
    for lr, accuracy in ((0.001, 0.5), (0.01, 0.7), (0.1, 0.6)):
        make_run(tmp_path, str(lr), accuracy, **{LR: lr})
    (axis,) = plot_setting(load_results(tmp_path), "lr").axes
    (line,) = axis.containers
    assert list(line.lines[0].get_xdata()) == [0.001, 0.01, 0.1]
    assert list(line.lines[0].get_ydata()) == [0.5, 0.7, 0.6]
    assert axis.get_xscale() == "log"


def test_without_an_ending_pdf_and_png_are_written(smallest, tmp_path):
    paths = save_figure(draw("gap", smallest), tmp_path / "figure")
    assert [path.name for path in paths] == ["figure.pdf", "figure.png"]
    assert paths[0].read_bytes().startswith(b"%PDF")
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_the_command(cli, tmp_path):
    make_run(tmp_path / "sweep", "a", 0.5, **SIZE)
    make_base(tmp_path / "base", 0.8, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
    outcome = cli("plot", "--list")
    assert outcome.code == 0
    assert all(name in outcome.out for name in FIGURES)
    path = tmp_path / "out.png"
    arguments = ("plot", tmp_path / "sweep", "--figure", "penalties", "-o", path)
    assert_user_error(cli(*arguments), "there is no base network of a destination", "--base FOLDER")
    assert cli(*arguments, "--base", tmp_path / "base").code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert_user_error(cli("plot", tmp_path / "sweep", "--figure", "penaltys"), "there is no figure", "penalties")
    assert_user_error(cli("plot", tmp_path / "sweep", "--figure", "setting"), "0 settings vary", "grid")
    assert_user_error(
        cli("plot", tmp_path / "sweep", "--setting", "lr"), "the figure 'gap' takes no --setting", "setting"
    )
    assert_user_error(cli("plot"), "no folder of runs", "plot FOLDER")


def test_runs_of_one_epoch_have_points_with_bars_at_a_whole_epoch(tmp_path):
    for seed in (1, 2):
        run = make_run(tmp_path, f"run-{seed}", 0.5, seed=seed)
        StepLog([{"Step": 1, "Epoch": 3, ACCURACY: 0.4 + 0.1 * seed}]).save(run / "result.pkl")
    figure = draw("learning-curves", tmp_path)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["3"]
    assert axis.containers[0].has_yerr
