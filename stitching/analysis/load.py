"""Run folders as one tidy dataframe, and the runs that are missing in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from stitching.analysis.read_runs import RUN, RunOnDisk, read_runs
from stitching.config.errors import UserError
from stitching.text import printable

__all__ = [
    "known_states",
    "list_runs",
    "load_results",
    "read_results",
    "read_tables",
    "unfinished_of",
    "unfinished_runs",
]

Folders = str | Path | Iterable[str | Path]

_LEADING = (
    "run", "folder", "name", "arch", "base", "source", "destination", "gap", "first_deleted_block",
    "last_deleted_block", "dropped_blocks", "source_depth", "destination_depth", "num_downsamples", "adapter",
    "control", "seed",
)  # fmt: skip
_DERIVED = {"run", "folder", "base", "gap", "dropped_blocks", "problem"}  # keys of that name in metadata are others
_COUNTS = ("first_deleted_block", "last_deleted_block", "dropped_blocks", "num_downsamples")


def load_results(folders: Folders, *, steps: bool = False) -> pd.DataFrame:
    """Everything that the runs below one or several folders have logged, finished or not, as one tidy dataframe.

    A row for each run and epoch (or step; and for each `Variant`, in runs that measure several networks), with

    - the run: `run` (the path of its result), `folder`, `name`, `seed`, `state` (`done`, `running`, `stopped`,
      `failed` as the folder says; `stitching status` asks Slurm, too);
    - of a stitched network: `source`, `destination`, `adapter`, `gap` ("1-2": first and last deleted block),
      `first_deleted_block`, `last_deleted_block`, `dropped_blocks` (how many), `source_depth` (the fraction of the
      source's stages that are used), `destination_depth` (the fraction of the destination's stages that are left out),
      `num_downsamples`;
    - of the runs of one job over a grid (`job:`): `study` ("grid") and `arch`, the sweep's name;
    - of a control: what it is of, and `control` (`self`, `random_source`, `random_dest`, `adapter_only`);
    - of a whole network: `base`, its title, such as `timm/resnet50`, by which sources and destinations go;
    - each key of the config that differs between the runs, with its dotted name: `train_config.optimizer_args.lr`;
    - `parameters` and `trainable_parameters` (numbers), `macs` (multiply-adds for one image), and the rest of what
      metadata.yml has;
    - what was logged, as in result.pkl: `Step`, `Epoch`, `Loss`, `LR`, `Overall/Test Accuracy` (0 to 1), ...

    A network that stands for several stitches of a sweep (finetune over [1,1] and [1,2], say) has its rows for each of
    them, with the same `run` and another `name`. Runs that have logged nothing are in `unfinished_runs`.

    Args:
        folders: where run folders are, at any depth; of a sweep and of its base networks, say.
        steps: a row for every training step; by default one for every epoch, with the last value of each column in it
            (of the loss that is the epoch's last step).

    Raises:
        UserError: there is no such folder, or nothing was logged in any of them yet.
    """
    return read_results(folders, steps=steps)[0]


def list_runs(folders: Folders) -> pd.DataFrame:
    """The runs below one or several folders, a row each (or for each stitch), even if they have logged nothing.

    The columns are those of `load_results`, with `problem` (why nothing of the run is in the results) and without what
    was logged.
    """
    return read_tables(folders)[1]


def unfinished_runs(folders: Folders) -> pd.DataFrame:
    """The runs that are not done, or whose result or metadata is missing or broken.

    A row each, with `state`, `reason` and, of failed ones, `cause` (`diverged`, `out of memory`, ...).
    """
    return unfinished_of(list_runs(folders))


def known_states(runs: pd.DataFrame) -> pd.Series:
    """The states of a table that `list_runs` gave; `unreadable`: the metadata, or the result of a done run, is."""
    may_be_broken = runs["state"].isin(["done", "missing"])  # missing: the metadata has no state, or cannot be read
    return runs["state"].mask(may_be_broken & runs["problem"].notna(), "unreadable")


def unfinished_of(runs: pd.DataFrame) -> pd.DataFrame:
    """`unfinished_runs` of a table that `list_runs` gave."""
    unfinished = runs[(runs["state"] != "done") | runs["problem"].notna()]
    failure = unfinished["failure"] if "failure" in unfinished else pd.Series(index=unfinished.index, dtype=object)
    unfinished = unfinished.assign(reason=failure.fillna(unfinished["problem"]), state=known_states(unfinished))
    names = ("name", "state", "cause", "reason", "source", "destination", "gap", "adapter", "control", "seed", "folder")
    return unfinished[[name for name in names if name in unfinished]].reset_index(drop=True)


def read_results(folders: Folders, *, steps: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`load_results` and `list_runs` at once."""
    rows, runs = read_tables(folders, steps=steps)
    if rows.empty:
        problems = [problem for problem in runs["problem"].dropna() if problem]
        names = ", ".join(map(str, _as_list(folders)))
        first = f" ({problems[0]})" if problems else ""
        raise UserError(
            f"no run in {names} has logged anything yet{first}",
            do="`stitching status FOLDER` shows the state of its runs, `stitching submit SWEEP.yml` starts them.",
        )
    return rows, runs


def _as_list(folders: Folders) -> list[str | Path]:
    return [folders] if isinstance(folders, (str, Path)) else list(folders)


def read_tables(folders: Folders, *, steps: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `read_results`, but where nothing was logged yet the first table is empty."""
    unique_runs: dict[str, tuple[RunOnDisk, int]] = {}  # by result, so that a folder within another is read once
    logged: list[pd.DataFrame] = []
    count = 0
    for folder in _as_list(folders):
        runs, rows = read_runs(folder, steps=steps)
        new = {number for number, run in enumerate(runs) if str(Path(run.result).resolve()) not in unique_runs}
        for number in sorted(new):
            unique_runs[str(Path(runs[number].result).resolve())] = (runs[number], count + number)
        logged.append(rows[rows[RUN].isin(new)].assign(**{RUN: lambda rows, first=count: rows[RUN] + first}))
        count += len(runs)
    table = _run_table([run for run, _ in unique_runs.values()], [number for _, number in unique_runs.values()])
    rows = pd.concat(logged, ignore_index=True) if logged else pd.DataFrame({RUN: []})
    joined = table.drop(columns=[name for name in table if name in rows and name != RUN]).merge(rows, on=RUN)
    return joined.drop(columns=[RUN, "problem"]), table.drop(columns=RUN)


def _run_table(runs: list[RunOnDisk], numbers: list[int]) -> pd.DataFrame:
    with_settings = [run.settings for run in runs if run.settings]
    # Networks that are only tested do not count: their settings were not tried out.
    varied = _varied([settings for settings in with_settings if not settings.get("test_only")] or with_settings)
    rows = []
    for run, number in zip(runs, numbers, strict=True):
        # Nothing is compared with the whole network of a grid study's job.
        base = None if run.metadata.get("study") == "grid" else run.base
        same = {RUN: number, "run": run.result, "folder": run.folder, "base": base, "problem": run.problem}
        settings = {key: run.settings.get(key) for key in varied}
        name = printable(Path(run.folder).name + Path(run.result).stem.removeprefix("result"))
        for stitch in [run.metadata, *run.metadata.get("also", [])]:
            stitch_metadata = {
                key: value
                for key, value in {**run.metadata, **stitch}.items()
                if not isinstance(value, (dict, list)) and key not in _DERIVED
            }
            rows.append({"name": name, "state": "missing", **settings, **stitch_metadata, **same})
    table = pd.DataFrame(rows, columns=None if rows else [RUN, "run", "folder", "base", "problem", "state"])
    if {"first_deleted_block", "last_deleted_block"} <= set(table.columns):
        table = table.assign(dropped_blocks=table["last_deleted_block"] - table["first_deleted_block"] + 1)
        table = table.astype({name: "Int64" for name in _COUNTS if name in table})
        first, last = table["first_deleted_block"].astype("string"), table["last_deleted_block"].astype("string")
        table = table.assign(gap=(first + "-" + last).astype(object))
    leading = [name for name in _LEADING if name in table]
    ordered = [*leading, *(name for name in varied if name in table)]
    return table[[*ordered, *(name for name in table if name not in ordered)]]


def _varied(settings: list[dict[str, Any]]) -> list[str]:
    """The keys that differ between configs, in the order in which they are first seen."""
    keys = dict.fromkeys(key for config in settings for key in config)
    return [key for key in keys if len({repr(config.get(key)) for config in settings}) > 1]
