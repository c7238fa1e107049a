"""One tidy file of everything that the runs below a folder have logged, for other programs to read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stitching.analysis.tables import cells_of, each_run
from stitching.config.errors import UserError
from stitching.training.files import write_whole
from stitching.training.results import read_result

__all__ = ["check_ending", "collect", "save_table"]

ENDINGS = (".parquet", ".csv")
_RUN = "number of the run"


def collect(folder: str | Path, *, steps: bool = False) -> tuple[pd.DataFrame, dict[str, str]]:
    """What the runs below `folder` have logged, finished or not, beside what is known of each run.

    A network that stands for several cells of a sweep has its rows for each of them.

    Args:
        folder: where run folders are, at any depth.
        steps: a row for every training step; by default one for every epoch, with the last value of each column in it
            (of the loss that is the epoch's last step).

    Returns:
        The rows, with the column `state` for telling finished runs, and the reasons why runs are missing, by folder.

    Raises:
        UserError: there is no such folder, or nothing was logged in it yet.
    """
    frames, cells, missing = [], [], {}
    for number, (result, metadata) in enumerate(each_run(folder)):
        try:
            logged = read_result(result)
        except UserError as error:
            missing[str(result.parent)] = error.problem
            continue
        frames.append(logged.assign(**{_RUN: number}))
        cells += [{_RUN: number, "folder": str(result.parent), **cell} for cell in cells_of(metadata)]
    if not frames:
        raise UserError(
            f"no run in {folder} has logged anything yet", do="`stitching status FOLDER` says how its runs stand."
        )
    # Once for all runs: these calls take as long for one run as for thousands.
    table = pd.concat(frames, ignore_index=True)
    if not steps:
        table = table.groupby([_RUN, "Epoch"], as_index=False, sort=False).last()
    return pd.DataFrame(cells).merge(table, on=_RUN).drop(columns=_RUN), missing


def check_ending(path: Path) -> None:
    """Raise `UserError` if a table cannot be written to a file of this name."""
    if path.suffix not in ENDINGS:
        raise UserError(f"the ending of {path} is of no table", allowed=", ".join(ENDINGS))


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as its name ends, whole or not at all.

    Raises:
        UserError: the ending is of no format that is written, or the file cannot be written.
    """
    check_ending(path)
    if path.suffix == ".csv":
        write_whole(path, lambda file: file.write(table.to_csv(index=False).encode()))
        return
    same = table.copy(deep=False)
    for name in table.columns:  # a setting may be a number in one run and a word in another; parquet has one type
        if pd.api.types.infer_dtype(table[name], skipna=True).startswith("mixed"):
            same[name] = table[name].map(str, na_action="ignore")
    write_whole(path, lambda file: same.to_parquet(file, index=False))
