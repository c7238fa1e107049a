"""The step dataframe: a row for every training step, saved twice.

Every command and the analysis read `result.parquet`, which has a digest of its content; `result.pkl` is the same
dataframe for a user's own notebook.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stitching.config.errors import UserError, first_line
from stitching.runs.columns import ACCURACY
from stitching.runs.folder import RunFolder, write_whole
from stitching.text import printable

__all__ = ["ACCURACY", "TIMING_COLUMNS", "VARIANT", "StepLog", "read_result", "read_steps"]

VARIANT = "Variant"  # the number of the network that a row is of, in runs that measure several: stitches of a supernet
TIMING_COLUMNS = ("Time/Data", "Time/Step", "Time/Img Per Sec", "Time/Per Epoch", "Proc Mem", "GPU Mem")

_FIRST = ("Step", "Epoch", "Loss", "LR")


class StepLog:
    """Rows of named numbers. Checkpoints contain them, so a resumed run keeps its rows."""

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows or []

    def add(self, row: dict[str, float]) -> None:
        """Append a step's row."""
        self.rows.append(row)

    def extend_last(self, values: dict[str, float]) -> None:
        """Add the values of an epoch to its last row."""
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

    def save(self, path: Path) -> dict[str, str]:
        """Write the dataframe as a pickle to `path`, and as parquet beside it; each whole or not at all.

        Returns:
            The SHA-256 of both files, by name, for `is_whole`.
        """
        frame = self.dataframe()
        # An object index keeps the file readable by pandas 2 and 3 alike, and by `read_result`.
        frame.columns = pd.Index(list(frame.columns), dtype=object)
        pickled = io.BytesIO()
        frame.to_pickle(pickled, compression=None)
        digests = {}
        for file, data in ((path, pickled.getvalue()), (path.with_suffix(".parquet"), _as_parquet(frame))):
            write_whole(file, lambda out, data=data: out.write(data))  # type: ignore[misc]
            digests[file.name] = hashlib.sha256(data).hexdigest()
        return digests


def _as_parquet(frame: pd.DataFrame) -> bytes:
    """The dataframe in a parquet file whose schema holds a digest of the names and numbers."""
    # From arrays, not from pandas: NaN stays NaN, and no number changes a bit. Dictionaries would merge some NaNs.
    table = pa.table({str(name): frame[name].to_numpy() for name in frame.columns})
    out = io.BytesIO()
    header = {_DIGEST: _digest_of(frame).encode()}
    pq.write_table(table.replace_schema_metadata(header), out, use_dictionary=False, write_page_checksum=True)
    return out.getvalue()


_REQUIRED = ("Step", "Epoch")
_MOST_COLUMNS, _MOST_NUMBERS = 2_000, 500_000_000  # a few bytes can claim more than any memory holds
_DIGEST = b"sha256 of the columns"


def _digest_of(frame: pd.DataFrame) -> str:
    """A digest of the columns' names, types and numbers, and their order."""
    types = [(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]
    digest = hashlib.sha256(json.dumps([types, len(frame)]).encode())
    for _, column in frame.items():
        digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return digest.hexdigest()


def read_steps(folder: RunFolder, metadata: dict[str, Any] | None = None) -> pd.DataFrame:
    """A run's step dataframe, from its result.parquet; opens no pickle.

    Args:
        folder: of the run.
        metadata: the content of its metadata.yml. If that has the digest of a result, the file must match it.

    Returns:
        Columns of numbers; `Step` and `Epoch` are among them, and have one in every row.

    Raises:
        UserError: there is no such file, it is damaged, or the run did not write it.
    """
    path = folder.steps
    if not path.is_file():  # reading a pipe would wait forever
        raise UserError(f"there is no result {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    digests = (metadata or {}).get("digests")
    if isinstance(digests, dict) and digests.get(path.name) != hashlib.sha256(data).hexdigest():
        raise UserError(f"{path} is damaged: it is not the file that the run wrote", do="Train the run again.")
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow, file.metadata.num_rows)
            table = file.read()
        frame = table.to_pandas()
        is_damaged = (table.schema.metadata or {}).get(_DIGEST, b"").decode() != _digest_of(frame)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        reason = first_line(error)
        raise UserError(f"{path} is no result of a run: {reason}", do="Train the run again.") from None
    if is_damaged:
        raise UserError(f"{path} is damaged: its digest does not match", do="Train the run again.")
    for name in _REQUIRED:
        if len(frame) and not np.isfinite(frame[name].to_numpy(dtype=float)).all():
            raise UserError(f"{path} is no result of a run: a row has no {name}", do="Train the run again.")
    return frame


def _check_columns(schema: pa.Schema, rows: int) -> None:
    """Raise `ValueError` if the columns are not those of a step dataframe, before any is read."""
    if len(schema) > _MOST_COLUMNS or len(schema) * rows > _MOST_NUMBERS:
        raise ValueError(f"it has {len(schema):,} columns and {rows:,} rows")
    for field in schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            raise ValueError(f"its column {printable(field.name)} holds {field.type}, not numbers")
        if printable(field.name) != field.name:
            raise ValueError(f"the name of its column {printable(field.name)} cannot be printed")
    if len(set(schema.names)) < len(schema):
        raise ValueError("two of its columns have one name")
    missing = [name for name in _REQUIRED if rows and name not in schema.names]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")


class _DataframeUnpickler(pickle.Unpickler):
    """Looks up only the names that a dataframe of numbers is made of."""

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
    """The step dataframe in a result.pkl, for a user's own notebook.

    Open pickles from places that you trust only: a crafted one can still crash the process, although nothing but what a
    dataframe of numbers is made of is looked up. No command of this package opens one; `read_steps` needs none.

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
