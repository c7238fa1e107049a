"""Saving a table as a file that other programs read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from stitching.config.errors import UserError
from stitching.runs.folder import write_whole
from stitching.text import printable

__all__ = ["check_ending", "save_table"]

ENDINGS = (".parquet", ".csv")


def check_ending(path: Path) -> None:
    """Raise `UserError` if a table cannot be written to a file of this name."""
    if path.suffix not in ENDINGS:
        raise UserError(f"the ending of {path} is of no table", allowed=", ".join(ENDINGS))


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of its file's ending, whole or not at all.

    Raises:
        UserError: the ending is of no format that is written, or the file cannot be written.
    """
    check_ending(path)
    saved = table.copy(deep=False)
    for name in table.columns:
        if not pd.api.types.is_object_dtype(table[name]):
            continue
        # A setting may be a number in one run and a word in another; parquet has one type.
        mixed = pd.api.types.infer_dtype(table[name], skipna=True).startswith("mixed")
        saved[name] = table[name].map(partial(_as_saved, as_text=mixed), na_action="ignore")
    if path.suffix == ".csv":
        write_whole(path, lambda file: file.write(saved.to_csv(index=False).encode()))
    else:
        write_whole(path, lambda file: saved.to_parquet(file, index=False))


def _as_saved(value: Any, as_text: bool) -> Any:
    """The value as written: a folder's name may hold characters that no text file can."""
    return printable(str(value), keep="\n\t") if as_text or isinstance(value, str) else value
