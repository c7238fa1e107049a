"""Controls are marks at their own numbers, never a stitched network's; settings are chosen by validation alone."""

from __future__ import annotations

import pytest
from made_runs import RESNET, VIT, make_base, make_run

from stitching import (
    base_networks,
    best_settings,
    controls,
    load_results,
    plot_accuracy_by_depth,
    plot_accuracy_by_gap,
    plot_accuracy_by_macs,
    stitched,
)  # fmt: skip
from stitching.analysis.plots.style import control_look
from stitching.runs.step_log import ACCURACY, StepLog

LR = "train_config.optimizer_args.lr"
VAL = "Overall/Val Accuracy"
SIZE = {"source_depth": 0.25, "destination_depth": 0.5, "parameters": 10**6, "macs": 10**9}
LABEL = "control: random source"


@pytest.fixture
def results(tmp_path):
    """A stitched network, its random source with two adapters (one of two seeds), and one that is still at it."""
    make_run(tmp_path, "a", 0.9, **SIZE)
    make_run(tmp_path, "b", 0.2, control="random_source", **SIZE)
    make_run(tmp_path, "c", 0.4, control="random_source", seed=2, **SIZE)
    make_run(tmp_path, "d", 0.5, control="random_source", adapter="finetune", **SIZE)
    make_run(tmp_path, "e", 0.1, control="random_source", adapter="finetune", state="running", **SIZE)
    make_run(tmp_path, "f", 0.97, control="self", pair=(VIT, VIT), gap=(3, 2), adapter="identity", **SIZE)
    return load_results(tmp_path)


def test_controls_and_stitched_networks_are_apart(results):
    assert set(controls(results)["name"]) == set("bcdef")
    assert set(stitched(results)["name"]) == {"a"}
    without = results.drop(columns="control")
    assert controls(without).empty
    assert len(stitched(without)) == len(results)


@pytest.mark.parametrize("plot", [plot_accuracy_by_gap, plot_accuracy_by_depth])
def test_a_control_is_a_column_in_the_place_of_its_adapter(results, plot):
    figure = plot(results)
    (axis,) = figure.axes  # the self-stitch is no pair of its own
    (top,) = axis.collections[0].get_segments()  # finetune has no stitched network to compare with
    assert list(top[:, 1]) == pytest.approx([0.3, 0.3])  # the mean of two seeds
    (column,) = axis.patches
    assert column.get_y() + column.get_height() == pytest.approx(0.3)
    (line,) = axis.containers
    assert list(line.lines[0].get_ydata()) == [0.9]
    assert column.get_x() + column.get_width() / 2 == pytest.approx(line.lines[0].get_xdata()[0])
    assert LABEL in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_control_by_size_is_a_grey_mark(results):
    numbers = plot_accuracy_by_macs.numbers(results)
    (panel,) = numbers.panels
    marks = {line.look.label: list(line.points["mean"]) for line in panel.lines}
    assert marks == {"affine": [0.9], LABEL: [pytest.approx(0.3), pytest.approx(0.5)]}
    assert [line.is_behind for line in panel.lines] == [False, True]


def test_controls_by_size_have_marks_of_their_own():
    assert (
        len(
            {
                (look.marker, look.is_filled)
                for look in map(control_look, ("random_source", "random_dest", "adapter_only"))
            }
        )
        == 3
    )


@pytest.mark.parametrize("plot", [plot_accuracy_by_gap, plot_accuracy_by_depth, plot_accuracy_by_macs])
def test_without_controls_there_are_no_lines_and_no_words_of_them(tmp_path, plot):
    make_run(tmp_path, "a", 0.9, **SIZE)
    results = load_results(tmp_path).drop(columns="control", errors="ignore")
    legend = plot(results).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["affine"]
    assert "control" not in legend.get_title().get_text()


def _tried(folder, name, test, val, **more):
    run = make_run(folder, name, test, **more)
    StepLog([{"Step": 1, "Epoch": 1, ACCURACY: test, VAL: val}]).save(run / "result.pkl")


def test_best_settings_look_at_validation_only_and_keep_the_rest(tmp_path):
    _tried(tmp_path, "good", 0.5, 0.9, **{LR: 0.1})
    _tried(tmp_path, "lucky", 0.8, 0.6, **{LR: 0.01})  # better on the test set, which must not be looked at
    _tried(tmp_path, "other", 0.7, 0.8, adapter="finetune", **{LR: 0.01})
    _tried(tmp_path, "control", 0.1, 0.1, control="random_source", **{LR: 0.1})
    _tried(tmp_path, "of-lucky", 0.2, 0.9, control="random_source", **{LR: 0.01})
    make_run(tmp_path, "self", 0.97, control="self", pair=(VIT, VIT), gap=(3, 2), adapter="identity")
    results = load_results(tmp_path)
    chosen = best_settings(results)
    assert set(chosen["name"]) == {"good", "other", "control", "self"}
    assert LR not in chosen
    assert best_settings(results.drop(columns=VAL)).equals(results.drop(columns=VAL))  # nothing to choose by


def test_a_sweeps_own_base_network_goes_before_another_of_the_title(tmp_path):
    sweep = tmp_path / "sweep"
    make_run(sweep, "a", 0.5)
    model = {"Net": {"backend": "timm", "model_name": "resnet18"}}
    make_base(sweep / "base-resnet18", 0.8, model)
    make_base(tmp_path / "elsewhere" / "resnet18", 0.6, model)
    make_base(tmp_path / "elsewhere" / "vit_tiny", 0.7, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
    bases = base_networks(load_results([tmp_path / "elsewhere", sweep]))["accuracy"].to_dict()
    assert bases == pytest.approx({RESNET: 0.8, VIT: 0.7})
