"""Numbers that were computed by hand, and no choosing on the test set."""

from __future__ import annotations

import pandas as pd
import pytest
from made_runs import ACCURACY, VIT, make_base, make_run

from stitching import (
    add_measures,
    best_by_validation,
    load_results,
    relative_accuracy,
    stitching_penalty,
    summarize,
    wilson_interval,
)  # fmt: skip
from stitching.analysis.checks import runs_without_accuracy
from stitching.analysis.plots.heatmaps import best_adapters
from stitching.analysis.tables import accuracy_table, stitched_accuracies
from stitching.config.errors import UserError
from stitching.runs.step_log import StepLog

LR = "train_config.optimizer_args.lr"
VAL = "Overall/Val Accuracy"


def test_mean_and_interval_over_seeds(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        make_run(tmp_path, f"a{seed}", accuracy, seed=seed)
    make_run(tmp_path, "b", 0.4, adapter="finetune")
    make_run(tmp_path, "going", 0.9, adapter="finetune", seed=2, state="running")  # is no result yet
    one, other = (row for _, row in summarize(load_results(tmp_path)).iterrows())
    half = 4.302653 * 0.1 / 3**0.5  # t(0.975, 2) s / sqrt(n)
    assert (one["mean"], one["low"], one["high"], one["n"]) == pytest.approx((0.6, 0.6 - half, 0.6 + half, 3))
    assert (other["mean"], other["n"]) == (0.4, 1)
    assert other[["std", "low", "high"]].isna().all()


def _nan(folder, name, epochs=2, **more):
    """A finished run whose last test gave no accuracy, while the one before did."""
    run = make_run(folder, name, 0.0, epoch=epochs, **more)
    rows = [{"Step": 1, "Epoch": 1, ACCURACY: 0.9, VAL: 0.9, "Overall/Test Loss": 1.0}]
    StepLog([*rows, {"Step": 2, "Epoch": epochs, ACCURACY: float("nan"), VAL: float("nan")}]).save(run / "result.pkl")
    return run


def test_a_finished_run_without_a_number_is_counted_and_in_no_mean(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.7)):
        make_run(tmp_path, f"a{seed}", accuracy, seed=seed)
    _nan(tmp_path, "bad", seed=2)
    _nan(tmp_path, "all-bad", adapter="finetune")
    make_run(tmp_path, "going", 0.1, seed=3, state="running")
    results = load_results(tmp_path)
    some, none = summarize(results).sort_values("adapter").to_dict("records")
    assert (some["mean"], some["n"], some["missing"]) == (pytest.approx(0.6), 2, 1)
    assert (none["n"], none["missing"]) == (0, 1)
    assert pd.isna([none["mean"], none["low"]]).all()
    by_epoch = summarize(results, ["adapter", "Epoch"]).set_index(["adapter", "Epoch"])
    assert by_epoch.loc[("affine", 2), ["n", "missing"]].tolist() == [3, 1]
    assert by_epoch.loc[("finetune", 1), ["n", "missing"]].tolist() == [1, 0]
    (one,) = summarize(results, "state").to_dict("records")
    assert (one["n"], one["missing"]) == (1, 2)  # finetune of seed 1 gave no number, so that there is none of the seed
    assert runs_without_accuracy(results) == ["all-bad", "bad"]
    table = accuracy_table(results)
    assert table["affine"].tolist() == [pytest.approx(0.6)]
    assert table["finetune"].isna().all()
    assert stitched_accuracies(results).missing.to_dict("records") == [{"affine": 1, "finetune": 1}]


def test_what_gave_no_number_for_a_seed_is_not_chosen(tmp_path):
    for seed in (1, 2):
        _validated(tmp_path, f"steady{seed}", [(1, (0.6, 0.6))], seed=seed, **{LR: 0.1})
    _validated(tmp_path, "lucky", [(1, (0.9, 0.9))], seed=1, **{LR: 1.0})
    _nan(tmp_path, "diverged", seed=2, **{LR: 1.0})
    chosen = best_by_validation(load_results(tmp_path), LR)
    assert set(chosen["name"]) == {"steady1", "steady2"}
    assert best_by_validation(load_results(tmp_path))["name"].tolist() == ["diverged", "lucky", "steady1", "steady2"]


def test_intervals_stay_where_the_number_can_be(tmp_path):
    for seed, accuracy in enumerate((0.7, 0.99)):
        make_run(tmp_path, f"a{seed}", accuracy, seed=seed)
    make_base(tmp_path / "vit_tiny", 0.9, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
    results = add_measures(load_results(tmp_path))
    (row,) = summarize(results).to_dict("records")
    assert (row["low"], row["high"]) == (0, 1)  # mean ± 1.84 otherwise
    (row,) = summarize(results, value="penalty").to_dict("records")
    assert (row["low"], row["high"]) == (-1, 1)
    (row,) = summarize(results, value="relative_accuracy").to_dict("records")
    assert (row["low"], row["high"]) == (0, pytest.approx(row["mean"] + 12.7062 * row["std"] / 2**0.5, rel=1e-4))


def test_n_is_the_number_of_seeds_whatever_is_averaged(tmp_path):
    for seed in (1, 2):
        for last in (2, 4):
            make_run(tmp_path, f"{seed}{last}", 0.1 * seed + 0.01 * last, seed=seed, gap=(1, last))
    (row,) = summarize(load_results(tmp_path), "adapter").to_dict("records")
    assert (row["mean"], row["n"]) == (pytest.approx(0.18), 2)
    assert row["std"] == pytest.approx(0.1 / 2**0.5)


def test_by_epoch_unfinished_runs_count_and_bases_only_where_asked(tmp_path):
    make_run(tmp_path, "a", 0.5, state="running")
    make_base(tmp_path / "base", 0.9, {"Net": {"backend": "timm", "model_name": "resnet18"}})
    results = load_results(tmp_path)
    assert summarize(results, ["adapter", "Epoch"])["mean"].tolist() == [0.99, 0.5]
    assert summarize(results, ["base"]).dropna(subset="base")["mean"].tolist() == [0.9]
    with pytest.raises(UserError, match="no column 'wrong'"):
        summarize(results, "wrong")


def test_wilson():
    low, high = wilson_interval(0.8, 100)  # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert (low, high) == (pytest.approx(0.711171, abs=1e-5), pytest.approx(0.866633, abs=1e-5))
    assert wilson_interval(1.0, 10) == (pytest.approx(0.722467, abs=1e-5), pytest.approx(1.0))


def test_the_interval_of_the_test_set_stands_beside_that_of_the_seeds(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, f"a-{seed}", 0.8, seed=seed, test_images=100)
    (row,) = summarize(load_results(tmp_path)).to_dict("records")
    assert (row["test_low"], row["test_high"]) == pytest.approx((0.711171, 0.866633), abs=1e-5)
    make_run(tmp_path, "b", 0.8, seed=3, test_images=50)  # on another test set, so that there is no one interval
    (row,) = summarize(load_results(tmp_path)).to_dict("records")
    assert (row["n"], row["test_low"]) == (3, pytest.approx(float("nan"), nan_ok=True))
    assert "test_low" not in summarize(load_results(tmp_path), value="Step")


def test_measures(tmp_path):
    assert stitching_penalty(0.6, 0.8) == pytest.approx(0.2)
    assert relative_accuracy(0.6, 0.8) == pytest.approx(0.75)
    make_run(tmp_path, "a", 0.6)
    make_run(tmp_path, "b", 0.6, pair=(VIT, "timm/unknown"))
    for name, accuracy in (("resnet18", 0.9), ("vit_tiny", 0.8)):
        make_base(tmp_path / name, accuracy, {"Net": {"backend": "timm", "model_name": name}})
    measured = add_measures(load_results(tmp_path))
    rows = measured[measured["Epoch"] == 2].set_index("name")
    columns = ["penalty", "penalty_to_source", "relative_accuracy"]
    assert rows.loc["a", columns].tolist() == pytest.approx([0.2, 0.3, 0.75])
    assert rows.loc["b", columns].isna().tolist() == [True, False, True]
    assert rows.loc["vit_tiny", columns].tolist() == [0, 0, 1]


def _validated(folder, name, values, **more):
    """A run with (validation, test) accuracies of its epochs."""
    run = make_run(folder, name, 0.0, **more)
    rows = [{"Step": n, "Epoch": n, VAL: val, "Overall/Val Loss": val, ACCURACY: test} for n, (val, test) in values]
    StepLog(rows).save(run / "result.pkl")


def test_the_best_epoch_by_validation(tmp_path):
    _validated(tmp_path, "a", [(1, (0.5, 0.9)), (2, (0.7, 0.6)), (3, (0.6, 0.8))])
    assert best_by_validation(load_results(tmp_path))[ACCURACY].tolist() == [0.6]
    assert best_by_validation(load_results(tmp_path), metric="Overall/Val Loss")[ACCURACY].tolist() == [0.9]


def test_the_best_setting_by_the_mean_over_seeds_for_each_cell(tmp_path):
    for gap, good in (((1, 2), 0.1), ((3, 4), 0.2)):
        for lr in (0.1, 0.2):
            for seed in (1, 2):
                val = 0.7 if lr == good else [0.8, 0.3][seed - 1]  # the greatest one, and yet the least mean
                values = [(1, (0.99, 0.99)), (2, (val, 1 - val))]
                _validated(tmp_path, f"{gap[0]}{lr}{seed}", values, gap=gap, seed=seed, **{LR: lr})
    best = best_by_validation(load_results(tmp_path), LR)
    assert best[["gap", LR, "seed", ACCURACY]].values.tolist() == [
        ["1-2", 0.1, 1, pytest.approx(0.3)], ["1-2", 0.1, 2, pytest.approx(0.3)],
        ["3-4", 0.2, 1, pytest.approx(0.3)], ["3-4", 0.2, 2, pytest.approx(0.3)],
    ]  # fmt: skip


def test_the_best_adapter_of_a_gap_is_chosen_by_validation(tmp_path):
    _validated(tmp_path, "a", [(1, (0.7, 0.5))], adapter="affine")
    _validated(tmp_path, "b", [(1, (0.6, 0.9))], adapter="finetune")
    assert best_adapters(load_results(tmp_path))[["adapter", "mean"]].values.tolist() == [["affine", 0.5]]


def test_choosing_by_the_test_set_is_not_offered(tmp_path):
    make_run(tmp_path, "a", 0.5)
    results = load_results(tmp_path)
    with pytest.raises(UserError, match=r"no 'Overall/Val Accuracy'.*\n.*validation split"):
        best_by_validation(results)
    with pytest.raises(UserError, match="choosing on the test or training data"):
        best_by_validation(results, metric=ACCURACY)
    with pytest.raises(UserError, match="validation split"):
        best_adapters(results)
