"""The step dataframe: a row for every training step, saved as result.pkl and read back without running foreign code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd

from stitching.config.errors import UserError
from stitching.training.files import RunFolder, write_whole

__all__ = ["ACCURACY", "TIMING_COLUMNS", "StepLog", "is_whole", "read_result"]

ACCURACY = "Overall/Test Accuracy"  # the column of the test accuracy, 0 to 1
TIMING_COLUMNS = ("Time/Data", "Time/Step", "Time/Img Per Sec", "Time/Per Epoch", "Proc Mem", "GPU Mem")

_FIRST = ("Step", "Epoch", "Loss", "LR")


class StepLog:
    """Rows of named numbers; a checkpoint holds them too, so a resumed run goes on with the rows it had."""

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows or []

    def add(self, row: dict[str, float]) -> None:
        """Append a step's row."""
        self.rows.append(row)

    def extend_last(self, values: dict[str, float]) -> None:
        """Add what is known at an epoch's end to its last step's row."""
        self.rows[-1].update(values)

    def dataframe(self) -> pd.DataFrame:
        """The rows as a dataframe: Step, Epoch, Loss, LR first, then everything else by name, timings last."""
        frame = pd.DataFrame(self.rows)
        others = sorted(
            set(frame.columns) - {*_FIRST, *TIMING_COLUMNS},
            key=lambda name: (name.startswith("Overall"), name),
        )
        order = [name for name in (*_FIRST, *others, *TIMING_COLUMNS) if name in frame.columns]
        return frame[order]

    def save(self, path: Path) -> None:
        """Write the dataframe as a pickle, whole or not at all."""
        frame = self.dataframe()
        # An object index keeps the file readable by pandas 2 and 3 alike, and by `read_result`.
        frame.columns = pd.Index(list(frame.columns), dtype=object)
        write_whole(path, lambda file: frame.to_pickle(file, compression=None))


class _DataframeUnpickler(pickle.Unpickler):
    """Finds only the names that a dataframe of numbers is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


_ALLOWED = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("pandas", "DataFrame"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas", "Index"),
    ("pandas", "RangeIndex"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas._libs.internals", "_unpickle_block"),
}


def read_result(path: str | Path) -> pd.DataFrame:
    """Read a result.pkl without unpickling anything but a dataframe of numbers.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        with open(path, "rb") as file:
            frame = _DataframeUnpickler(file).load()
    except FileNotFoundError:
        raise UserError(f"there is no result {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} is no result of a run: {error}", do="It was not opened further.") from None
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{path} holds no dataframe")
    return frame


def is_whole(folder: RunFolder, metadata: dict[str, Any]) -> bool:
    """Whether the result of a run that is done is there as it was written.

    Files are written whole or not at all, so the size on record says it; a result that has none on record is read.
    """
    try:
        if "result_bytes" in metadata:
            return folder.result.stat().st_size == metadata["result_bytes"]
        read_result(folder.result)
    except (OSError, UserError):
        return False
    return True
