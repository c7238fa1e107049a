"""Tables made of results: finished runs, base networks, and accuracies side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stitching.analysis.formulas import relative_accuracy, stitching_penalty
from stitching.analysis.load import Folders, load_results
from stitching.analysis.statistics import (
    VAL_ACCURACY,
    best_by_validation,
    chosen_settings,
    cross_tests,
    gap_study_rows,
    grid_runs,
    last_epoch,
    stitch_keys,
    stitched,
    summarize,
    varied_settings,
)  # fmt: skip
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY
from stitching.sweeps.stitchers import STITCHERS

__all__ = [
    "StitchedAccuracies", "accuracy_table", "adapters_in", "add_measures", "base_networks", "cross_table", "grid_table",
    "load_bases", "load_runs", "stitched_accuracies",
]  # fmt: skip


def load_runs(folders: Folders) -> pd.DataFrame:
    """The finished runs below a folder, a row each: as `last_epoch(load_results(folder))`, and `accuracy` (0 to 1).

    `accuracy` is NaN for a run whose test gave no number.

    Raises:
        UserError: there is no such folder, no finished run in it, or none with a test accuracy.
    """
    results = load_results(folders)
    done = results[results["state"] == "done"]
    if done.empty:
        raise UserError(
            f"there is no finished run in {folders}", do="`stitching submit SWEEP.yml --cluster local` makes some."
        )
    last = last_epoch(done)
    if ACCURACY not in last or last[ACCURACY].isna().all():
        run = done["run"].iloc[0]
        raise UserError(f"{run} has no {ACCURACY!r}", do="It needs one data set and the metric `accuracy`.")
    return last.assign(accuracy=last[ACCURACY])


def load_bases(folders: Folders) -> pd.DataFrame:
    """`load_runs` of folders that hold base networks: whole networks, trained or only tested.

    Raises:
        UserError: as `load_runs`, or a run is not of a base network.
    """
    runs = load_runs(folders)
    others = runs[runs["base"].isna()]
    if not others.empty:
        raise UserError(
            f"the run in {others['folder'].iloc[0]} is of a stitched network",
            allowed="a base network: `model: {Net: ...}`",
        )
    return runs


def base_networks(results: pd.DataFrame) -> pd.DataFrame:
    """The whole networks in `results`, by title: `accuracy` (0 to 1, mean over seeds), `parameters` and `macs`.

    If a sweep has evaluated a network beside its own runs, only that evaluation counts, even if another run of the same
    title was loaded: it has the data and the checkpoint of the sweep's stitched networks.
    """
    numbers = {"accuracy": ACCURACY, "parameters": "parameters", "macs": "macs"}
    tested = last_epoch(results[results["base"].notna() & (results["state"] == "done")])
    runs = pd.DataFrame({"base": tested["base"], **{key: tested.get(name) for key, name in numbers.items()}})
    runs = runs.dropna(subset="accuracy")
    if "source" in results:
        sweeps = {
            Path(folder).parent for folder in results["folder"][results["base"].isna() & results["source"].notna()]
        }
        is_swept = np.array([Path(folder).parent in sweeps for folder in tested["folder"][runs.index]], dtype=bool)
        runs = runs[is_swept | ~runs["base"].isin(runs["base"][is_swept])]
    return runs.groupby("base", sort=False).mean()


def adapters_in(runs: pd.DataFrame) -> list[str]:
    """The stitchers of `runs`, in the order of the documentation; unknown ones last."""
    order = {name: number for number, name in enumerate(STITCHERS)}
    names: list[str] = list(runs["adapter"].dropna().unique()) if "adapter" in runs else []
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def accuracy_table(results: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy, the mean over seeds, for each pair, gap and varied setting (rows) and stitcher (columns).

    Of finished runs, those that gave a number. Where there are grid studies only, it is `grid_table`.

    Raises:
        UserError: the runs are of no sweep.
    """
    if stitched(gap_study_rows(results)).empty and not grid_runs(results).empty:
        return grid_table(results)
    return stitched_accuracies(results).mean


def grid_table(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each study of one job over a grid (`job:`), and each combination of its settings.

    Returns:
        Indexed by the study's name and its settings: `mean`, `low`, `high`, `n` and `missing` of the test accuracy over
        seeds, as `summarize` gives them; `validation`, the mean validation accuracy, blank without a validation split;
        `best`, whether validation accuracy would choose this combination (data sets are not chosen between).

    Raises:
        UserError: no run is of such a study.
    """
    runs = grid_runs(results)
    if runs.empty:
        raise UserError("no run is of a study of one job over a grid", do="Write one with `job:` and `grid:`.")
    tables = []
    for _, study in runs.groupby("arch" if "arch" in runs else "study", sort=False, dropna=False):
        table = summarize(study)
        keys = list(table.columns[: table.columns.get_loc("mean")])
        table = table.assign(validation=np.nan, best=False)
        if VAL_ACCURACY in study and study[VAL_ACCURACY].notna().any():
            validation = summarize(study, keys, value=VAL_ACCURACY)[[*keys, "mean"]]
            table["validation"] = table[keys].merge(validation, on=keys, how="left")["mean"].to_numpy()
            over = chosen_settings(study)
            chosen = best_by_validation(study[study["state"] == "done"], over)[keys] if over else study[keys]
            table["best"] = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(chosen))
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    numbers = ["mean", "low", "high", "n", "missing", "validation", "best"]
    return table.set_index([name for name in table if name not in (*numbers, "std", "test_low", "test_high")])[numbers]


@dataclass(frozen=True)
class StitchedAccuracies:
    """Test accuracies of stitched networks: tables with the rows and columns of `accuracy_table`.

    Attributes:
        mean: over seeds.
        low, high: its 95% interval, as `summarize` has it.
        missing: how many finished runs gave no number (NaN) and so are not in the mean.
        interval_over: what the intervals are over: `seeds`, blank for what has one; where nothing has several,
            `test images`, if the runs tell how many these are; None where there are no intervals.
    """

    mean: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    missing: pd.DataFrame
    interval_over: str | None


def stitched_accuracies(results: pd.DataFrame) -> StitchedAccuracies:
    """Test accuracy for each pair, gap and varied setting (rows) and stitcher (columns), with its interval.

    Raises:
        UserError: the runs are of no sweep over gaps.
    """
    runs = last_epoch(stitched(gap_study_rows(results)))
    if runs.empty:
        raise UserError("these runs are not of a sweep: they name no gap and no stitcher")
    left_out = ("first_deleted_block", "last_deleted_block", "adapter")
    rows = [key if key != "first_deleted_block" else "gap" for key in stitch_keys(runs) if key not in left_out[1:]]
    summary = summarize(runs, [*rows, "adapter"])
    low, high = "low", "high"
    interval_over: str | None = "seeds"
    if summary["low"].isna().all():
        low, high, interval_over = "test_low", "test_high", "test images"
    if low not in summary or summary[low].isna().all():
        low, high, interval_over = "low", "high", None

    def table(column: str) -> pd.DataFrame:
        return summary.pivot_table(
            index=rows, columns="adapter", values=column, sort=False, dropna=False, aggfunc="first"
        )

    tested = table("n").notna().any(axis=1)
    mean, lowest, highest, missing = (
        table(column).reindex(columns=adapters_in(runs))[tested] for column in ("mean", low, high, "missing")
    )
    return StitchedAccuracies(mean, lowest, highest, missing.fillna(0).astype(int), interval_over)


def add_measures(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with `penalty`, `penalty_to_source` and `relative_accuracy` of every row that has a test accuracy.

    Base accuracies are those of the whole networks that the run's own sweep has tested, with the run's settings where
    these have a part in a test (the size of images, say); else those of `base_networks`. Blank where there is none.
    """
    dest, source, whole = (_base_accuracy(results, name) for name in ("destination", "source", "base"))
    dest, source = dest.fillna(whole), source.fillna(whole)  # a whole network is its own base
    accuracy = results[ACCURACY]
    return results.assign(
        penalty=stitching_penalty(accuracy, dest),
        penalty_to_source=stitching_penalty(accuracy, source),
        relative_accuracy=relative_accuracy(accuracy, dest),
    )


def _base_accuracy(results: pd.DataFrame, column: str) -> pd.Series:
    """For each row the accuracy of the whole network that `column` names; NaN where it is not known."""
    if column not in results:
        return pd.Series(np.nan, index=results.index)
    sweeps = results["folder"].map(lambda folder: str(Path(folder).parent))
    tested = last_epoch(results[results["base"].notna() & (results["state"] == "done")]).dropna(subset=ACCURACY)
    tested = tested.assign(sweep=tested["folder"].map(lambda folder: str(Path(folder).parent)))
    varied = [
        name for name in varied_settings(results) if tested.groupby(["sweep", "base"])[name].nunique().gt(1).any()
    ]
    keys = tested[["sweep", "base", *varied]].astype(object).itertuples(index=False, name=None)
    accuracies = pd.DataFrame({"key": list(keys), "accuracy": tested[ACCURACY].to_numpy()})
    of_own_sweep = accuracies.groupby("key", sort=False)["accuracy"].mean().to_dict() if len(accuracies) else {}
    others = base_networks(results)["accuracy"].to_dict()
    rows = zip(sweeps, results[column], *(results[name] for name in varied), strict=True)
    values = [of_own_sweep.get(row, others.get(row[1], np.nan)) for row in rows]
    return pd.Series(values, index=results.index, dtype=float)


def cross_table(results: pd.DataFrame) -> pd.DataFrame:
    """Test accuracies (0 to 1) of one cross test: a row for each encoder, untuned ones last, a column for each head.

    Args:
        results: rows of one cross test, as `load_results` or `load_runs` gives them; runs that are not done are blank.

    Raises:
        UserError: none of them is finished.
    """
    tests = cross_tests(results)
    done = tests[tests["state"] == "done"] if len(tests) else tests
    if done.empty or ACCURACY not in done:
        raise UserError("no run of a cross test is finished", do="`stitching cross-test FILE.yml` makes some.")
    table = last_epoch(done).pivot_table(index="encoder", columns="head", values=ACCURACY, aggfunc="mean", dropna=False)
    heads = sorted(tests["head"].unique())
    encoders = sorted(tests["encoder"].unique(), key=lambda name: (name not in heads, name))
    return table.reindex(index=encoders, columns=heads)
