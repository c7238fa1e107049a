"""A table as a file, for other programs to read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stitching.config.errors import UserError
from stitching.training.files import write_whole

__all__ = ["check_ending", "save_table"]

ENDINGS = (".parquet", ".csv")


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
