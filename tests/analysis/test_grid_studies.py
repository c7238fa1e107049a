"""Results of one job over a grid: means over seeds for each combination, the best by validation, also beside gaps."""

from __future__ import annotations

import pytest
from made_grid import make_grid
from made_runs import VIT, make_base, make_run

from stitching import accuracy_table, best_settings, grid_table, load_results, stitched, summarize, varied_settings
from stitching.analysis.plots import FIGURES
from stitching.analysis.plots.curves import plot_learning_curves, plot_setting
from stitching.analysis.report import make_report
from stitching.config.errors import UserError

DATASET, LR = "train_config.dataset", "train_config.optimizer_args.lr"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return make_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A grid study and a study of gaps, which has no validation split."""
    folder = make_grid(tmp_path_factory.mktemp("mixed"))
    make_run(folder / "gaps", "a", 0.5)
    make_run(folder / "gaps", "b", 0.6, seed=2)
    make_base(folder / "gaps" / "base", 0.8, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
    return folder


def test_a_row_for_each_combination_with_its_mean_over_seeds(grid):
    results = load_results(grid)
    assert varied_settings(results) == [DATASET, LR]
    assert results["base"].isna().all()  # the job's network is not one to compare with
    table = summarize(results).set_index([DATASET, LR])
    assert table.loc[("digits", 0.01), "mean"] == pytest.approx(0.7)
    assert set(table["n"]) == {3}
    assert accuracy_table(results).equals(grid_table(results))


def test_the_best_is_chosen_by_validation_for_each_data_set(grid):
    table = grid_table(load_results(grid))
    assert list(table.index[table["best"]]) == [("lr", "cifar10", 0.1), ("lr", "digits", 0.1)]
    chosen = best_settings(load_results(grid))
    assert chosen["run"].nunique() == 6
    assert DATASET in chosen


def test_gaps_and_grids_in_one_folder(mixed):
    results = load_results(mixed)
    assert set(stitched(results)["name"]) == {"a", "b"}
    table = summarize(results)
    assert list(table["mean"].iloc[[0]]) == [pytest.approx(0.55)]
    assert table["arch"].notna().sum() == 6
    assert accuracy_table(results).to_numpy().tolist() == [[pytest.approx(0.55)]]
    assert {"a", "b"} <= set(best_settings(results)["name"])  # nothing to choose by is no reason to lose them


def test_a_setting_is_an_axis_with_intervals(mixed):
    numbers = plot_setting.numbers(load_results(mixed), "lr")
    (panel,) = numbers.panels
    assert panel.x.is_log
    means = {line.look.label: [round(mean, 6) for mean in line.points["mean"]] for line in panel.lines}
    assert means == {"dataset=cifar10": [0.2, 0.4, 0.3], "dataset=digits": [0.5, 0.7, 0.6]}
    assert all((line.points["low"] < line.points["mean"]).all() for line in panel.lines)


def test_learning_curves_have_a_panel_for_each_study(mixed):
    panels = plot_learning_curves.numbers(load_results(mixed)).panels
    assert [panel.title for panel in panels] == ["resnet18 → vit_tiny\nblocks 1–2 dropped", "lr"]
    assert [sum(len(line.points) > 0 for line in panel.lines) for panel in panels] == [1, 6]


def test_captions_name_the_seeds_of_an_adapter_only_where_there_are_adapters(mixed, grid):
    in_one_folder, of_a_grid = load_results(mixed), load_results(grid)
    assert "of the adapter" not in plot_learning_curves.numbers(of_a_grid).caption
    assert "base networks fixed" not in plot_setting.numbers(in_one_folder, "lr").caption  # drawn of the grid alone
    assert "those of adapters with base networks fixed" in plot_learning_curves.numbers(in_one_folder).caption


def test_what_has_no_gaps_is_told(grid):
    with pytest.raises(UserError, match="no runs of a sweep to draw"):
        FIGURES["gap"](load_results(grid))


def test_results_and_report(cli, mixed):
    outcome = cli("results", mixed)
    assert outcome.code == 0, outcome
    digits = next(line for line in outcome.out.splitlines() if "digits" in line and "0.1 " in line)
    assert digits.split() == ["lr", "digits", "0.1", "0.600", "[0.575,", "0.625]", "3", "0.500", "best"]
    assert "with 95% intervals over seeds, best by validation" in " ".join(outcome.out.split())
    assert VIT in outcome.out
    page = make_report([mixed])
    assert 'id="grid-table"' in page
    assert "Accuracy by learning rate" in page
