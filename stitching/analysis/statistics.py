"""From epochs to runs, from runs to numbers with intervals, and choosing without looking at the test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stitching.analysis.formulas import wilson_interval
from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.runs.identity import LEFT_OUT
from stitching.runs.step_log import ACCURACY

__all__ = [
    "best_adapters", "best_by_validation", "best_settings", "chosen_settings", "controls", "cross_tests",
    "gap_study_rows", "grid_runs", "last_epoch", "stitch_keys", "stitched", "summarize", "varied_settings",
]  # fmt: skip

_WITHOUT_GAPS = ("grid", "cross_test")  # studies
VAL_ACCURACY = "Overall/Val Accuracy"
_STITCH = ("source", "destination", "first_deleted_block", "last_deleted_block", "adapter")
_RUN = ["run", "name"]  # a network that stands for several stitches has one run, and several names
_NOT_CHOSEN = ("train_config.dataset", "train_config.tasks")  # accuracies on different data cannot be compared


def stitched(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of stitched networks: those of no whole network, control, grid study or cross test."""
    rows = results[results["base"].isna()]
    rows = rows[rows["control"].isna()] if "control" in rows else rows
    return rows[~_of_study(rows, *_WITHOUT_GAPS)]


def grid_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of grid studies: one job (`job:`) over a grid of settings and seeds, with no pair, gap or stitcher."""
    return results[_of_study(results, "grid")]


def cross_tests(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of cross tests (`ft_configs:`): an `encoder` with a `head`, tested on the head's `dataset`."""
    return results[_of_study(results, "cross_test")]


def _of_study(results: pd.DataFrame, *names: str) -> pd.Series:
    return results["study"].isin(names) if "study" in results else pd.Series(False, index=results.index)


def controls(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of controls; each has the pair, gap, adapter and settings of the stitch that it is a control of."""
    return results[results["control"].notna()] if "control" in results else results[:0].assign(control=None)


def gap_study_rows(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of gap studies: whole networks, and stitched networks that say their pair, gap and stitcher.

    Others are of grid studies, of single jobs, which no sweep has planned, or of folders that have lost a file.
    """
    stitch = list(_STITCH)
    complete = results[stitch].notna().all(axis=1) if set(stitch) <= set(results.columns) else False
    return results[(results["base"].notna() | complete) & ~_of_study(results, *_WITHOUT_GAPS)]


def varied_settings(results: pd.DataFrame) -> list[str]:
    """The config's keys that differ between stitched networks, or between the runs of one grid study.

    Seed and device are left out.
    """
    left_out = {*LEFT_OUT, "device", "train_config.seed"}
    keys = [name for name in results.columns if name.split(".")[0] in JobSettings.model_fields and name not in left_out]
    grid = grid_runs(results)
    studies = grid.groupby(_study_key(results), dropna=False) if len(grid) else ()
    groups = [stitched(results), *(runs for _, runs in studies)]
    return [name for name in keys if any(runs[name].nunique(dropna=False) > 1 for runs in groups)]


def _study_key(results: pd.DataFrame) -> list[str]:
    """The column with the name of a grid study."""
    return ["arch"] if "arch" in results else ["study"]


def stitch_keys(results: pd.DataFrame) -> list[str]:
    """The columns that tell networks apart, without the seed.

    Of stitched networks: pair, gap, adapter and varied settings; of grid studies alone: the study's name and its varied
    settings.
    """
    if stitched(results).empty and not grid_runs(results).empty:
        return [*_study_key(results), *varied_settings(results)]
    return [*(name for name in _STITCH if name in results), *varied_settings(results)]


def last_epoch(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: the last epoch after which it was tested. Runs that were not tested yet have none.

    Of a finished run that is its last epoch, even if the test gave no number (NaN) there, and never an earlier one.
    """
    tested = [name for name in results.columns if name.startswith("Overall/Test ")]
    rows = results[results[tested].notna().any(axis=1) | _is_final(results)]
    return rows.drop_duplicates(_RUN, keep="last").reset_index(drop=True)


def _is_final(results: pd.DataFrame) -> pd.Series:
    """Of each row, whether it is the last epoch of a finished run, as far as the run's metadata says which that is."""
    if not {"epoch", "state", "Epoch"} <= set(results.columns):
        return pd.Series(False, index=results.index)
    return (results["state"] == "done") & (results["Epoch"] == pd.to_numeric(results["epoch"]))


def best_by_validation(
    results: pd.DataFrame, over: str | Sequence[str] = "Epoch", *, metric: str = VAL_ACCURACY
) -> pd.DataFrame:
    """The rows of the best epochs or settings, chosen on data that was held out of the training data.

    The test columns of these rows are of data that had no part in the choice.

    Args:
        results: as `load_results` gives them.
        over: what is chosen. `Epoch`: of each run the row with its best epoch. Columns, such as
            `train_config.optimizer_args.lr` or `adapter`: of the networks that differ in nothing else (and the seed)
            those with the best mean over seeds, as they were after their last epoch. What gave no number (NaN) for one
            of its seeds is not chosen: the mean of the others would be too good.
        metric: a column that begins with `Overall/Val `; of a loss the least is the best, else the greatest; of equal
            ones the first.

    Raises:
        UserError: the metric is not of a validation set, or the runs have none.
    """
    if not metric.startswith("Overall/Val "):
        raise UserError(
            f"choosing by {metric!r} is choosing on the test or training data: what it then shows is too good",
            allowed="a column that begins with 'Overall/Val '",
        )
    if metric not in results or results[metric].isna().all():
        raise UserError(
            f"there is no {metric!r} in these runs, so nothing can be chosen",
            do="Train with a validation split. The test accuracy is for reporting: choosing by it makes it too good.",
        )
    better = results[metric] * (-1 if metric.endswith("Loss") else 1)
    rows = results.assign(_better=better)[better.notna() | _is_final(results)].reset_index(drop=True)
    if over == "Epoch":
        best = rows.dropna(subset="_better").groupby(_RUN, sort=False)["_better"].idxmax()
        return rows.loc[best, list(results.columns)].reset_index(drop=True)
    over = [over] if isinstance(over, str) else list(over)
    _check_columns(rows, over)
    kinds = (stitched(rows), grid_runs(rows))
    chosen = [_best_of(runs, over) for runs in kinds if not runs.empty]
    return (pd.concat(chosen) if chosen else rows[:0])[list(results.columns)].reset_index(drop=True)


def _best_of(rows: pd.DataFrame, over: Sequence[str]) -> pd.DataFrame:
    """The last rows of those networks, among those that differ in `over`, whose mean of `_better` is the greatest."""
    rows = rows.drop_duplicates(_RUN, keep="last")
    others = [key for key in stitch_keys(rows) if key not in over]
    means = (
        _mean_of_all(rows.groupby([*others, *over], dropna=False, sort=False)["_better"])
        .reset_index()
        .dropna(subset="_better")
    )
    means["_group"] = means.groupby(others, dropna=False, sort=False).ngroup() if others else 0
    best = means.groupby("_group")["_better"].idxmax()
    return rows.merge(means.loc[best, [*others, *over]], on=[*others, *over])


def best_settings(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with one choice of the varied settings for each pair, gap and adapter, chosen by validation accuracy.

    Of a grid study the best combination stays. Data sets are never chosen between. The columns of what was chosen are
    left out, so that figures draw one line for each adapter. Of the controls those stay that have the settings of what
    they are controls of. Whole networks stay as they are; so does everything where no setting varies, or without a
    validation split.
    """
    varied = chosen_settings(results)
    done = results[results["state"] == "done"]
    if not varied or VAL_ACCURACY not in done or done.loc[_is_studied(done), VAL_ACCURACY].isna().all():
        return results
    chosen = best_by_validation(done, varied)
    is_chosen = _in(results, chosen, _RUN)
    for kind in (stitched, grid_runs):
        if kind(done)[VAL_ACCURACY].isna().all():  # nothing to choose by
            is_chosen |= results.index.isin(kind(results).index)
    keys = [name for name in (*_STITCH, *varied) if name in results]
    controlled = results.index.isin(controls(results).index) & _in(results, chosen, keys)
    trained = _is_studied(results) | results.index.isin(controls(results).index)
    tested = results["control"].eq("self").to_numpy() if "control" in results else False
    return results[is_chosen | controlled | ~trained | tested].drop(columns=varied).reset_index(drop=True)


def chosen_settings(results: pd.DataFrame) -> list[str]:
    """The varied settings between which validation accuracy may choose: all but the data set."""
    return [key for key in varied_settings(results) if key not in _NOT_CHOSEN]


def _is_studied(results: pd.DataFrame) -> np.ndarray:
    """Of each row, whether it is of a stitched network or of a grid study."""
    is_studied: np.ndarray = results.index.isin(stitched(results).index) | _of_study(results, "grid").to_numpy(
        dtype=bool
    )
    return is_studied


def _in(rows: pd.DataFrame, others: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Of each row, whether one of the others has the same values in the columns."""
    keys, other_keys = (pd.MultiIndex.from_frame(frame[list(names)]) for frame in (rows, others))
    return np.asarray(keys.isin(other_keys))


def best_adapters(results: pd.DataFrame) -> pd.DataFrame:
    """The best adapter of each pair and gap, and of each varied setting the best value, chosen by validation accuracy.

    Returns:
        A row for each pair and gap, with `summarize`'s columns of the test accuracy, which had no part in the choice.

    Raises:
        UserError: the runs have no validation accuracy.
    """
    results = stitched(gap_study_rows(results))
    chosen = best_by_validation(results[results["state"] == "done"], ["adapter", *chosen_settings(results)])
    gap = ["gap", "first_deleted_block", "last_deleted_block"]
    return summarize(chosen, ["source", "destination", *gap, "adapter", *varied_settings(results)])


def summarize(results: pd.DataFrame, by: str | Sequence[str] | None = None, *, value: str = ACCURACY) -> pd.DataFrame:
    """Mean over seeds with its 95% interval, for each group of runs.

    `low` and `high` are the 95% interval over seeds: mean ± t(0.975, n - 1) · std / √n (Student's t), cut off where no
    such number can be (accuracies and agreements at 0 and 1, penalties at -1 and 1, losses and relative accuracies at
    0). It says how far another choice of these seeds could have moved the mean, and is blank for one seed. In a gap
    study the seeds are the adapter's, and the base networks are the same for all: the interval says nothing of base
    networks that were trained again. What groups hold beside seeds, several gaps for example, is averaged for each seed
    first, so that n is the number of seeds and never of runs.

    A finished run whose number is NaN is in no mean and yet counts: `missing` says for how many seeds that is so, and
    `n` how many the mean is of. A mean over what is left is too good where it is the bad runs that gave no number.

    `test_low` and `test_high`, of a test accuracy, are its 95% interval over test images (Wilson's, for as many as it
    was tested on), which says how far another test set of that size could have moved it. All seeds share their test
    set, so it does not shrink with their number.

    Args:
        results: as `load_results` gives them. Runs count if they are done, as they were after their last test; where
            `by` has `Epoch`, all do. Whole networks count only where `by` has `base`, controls where it has `control`.
        by: columns; by default those that tell networks apart (`stitch_keys`): of stitched networks pair, gap, adapter
            and varied settings, of grid studies (which then come last) their name and varied settings.
        value: the column that is averaged.

    Returns:
        A row for each group: `by`, then `mean`, `std`, `low`, `high`, `n`, `missing`; of a test accuracy `test_low`,
        `test_high`, where the runs tell their number of test images, and all of a group the same.

    Raises:
        UserError: there is no such column.
    """
    if by is None and not stitched(results).empty and not grid_runs(results).empty:
        tables = [
            summarize(results[~_of_study(results, "grid")], value=value),
            summarize(grid_runs(results), value=value),
        ]
        return pd.concat(tables, ignore_index=True)
    by = [by] if isinstance(by, str) else list(by) if by is not None else stitch_keys(results)
    rows = results if "base" in by else results[results["base"].isna()]
    rows = rows[rows["control"].isna()] if "control" in rows and "control" not in by else rows
    _check_columns(rows, [*by, "seed", value])
    # An epoch without a number was not tested, if it is not the last one.
    rows = rows[rows[value].notna() | _is_final(rows)] if "Epoch" in by else last_epoch(rows[rows["state"] == "done"])
    seeds = _mean_of_all(rows.groupby([*by, "seed"], dropna=False, sort=False)[value])
    table = seeds.groupby(level=by, dropna=False, sort=False).agg(["mean", "std", "count", "size"])
    n = table["count"].to_numpy()
    half = stats.t.ppf(0.975, np.where(n > 1, n - 1, np.nan)) * table["std"] / np.sqrt(np.maximum(n, 1))
    least, most = _range_of(value)
    low, high = (table["mean"] - half).clip(lower=least), (table["mean"] + half).clip(upper=most)
    table = table.assign(low=low, high=high, n=n, missing=table["size"] - n)
    columns = ["mean", "std", "low", "high", "n", "missing"]
    if "test_images" in rows and value.startswith("Overall/Test ") and value.endswith("Accuracy"):
        images = rows.dropna(subset=value).groupby(by, dropna=False, sort=False)["test_images"].agg(["min", "max"])
        num_images = images["min"].where(images["min"] == images["max"]).astype(float)
        low, high = wilson_interval(table["mean"], num_images.reindex(table.index))
        table = table.assign(test_low=low, test_high=high)
        columns += ["test_low", "test_high"]
    return table[columns].reset_index()


def _mean_of_all(groups: Any) -> pd.Series:
    """The mean of each group; NaN where one of it is NaN, which pandas would leave out."""
    means: pd.Series = groups.mean().where(groups.count() == groups.size())
    return means


def _range_of(value: str) -> tuple[float | None, float | None]:
    """The least and the most that a number of this name can be."""
    if value.lower().endswith(("accuracy", "agreement")) and value != "relative_accuracy":
        return 0, 1
    if value in ("penalty", "penalty_to_source"):
        return -1, 1
    return (0, None) if value == "relative_accuracy" or value.endswith("Loss") else (None, None)


def _check_columns(rows: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in rows:
            raise UserError(f"the results have no column {name!r}", allowed=", ".join(map(str, rows.columns)))
