"""Reading run folders: metadata, settings, and a row for every epoch.

Nothing else in the analysis reads result files; `stitching.analysis.load` makes tables of what is read here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stitching.config.errors import UserError
from stitching.config.parts import ModelFields
from stitching.runs.code import package_digest
from stitching.runs.folder import RunFolder
from stitching.runs.identity import LEFT_OUT
from stitching.runs.step_log import TIMING_COLUMNS, VARIANT, read_steps
from stitching.text import printable
from stitching.user_cache import cache_folder, read_cached, write_cached

__all__ = ["RUN", "RunOnDisk", "read_runs"]

RUN = "number of the run"  # joins rows and runs; not part of what users see

_FIRST = ("Step", "Epoch", "Loss", "LR")
_NO_SETTINGS = {*LEFT_OUT, "model", "assembly", "head", "reference", "device"}
_LONG_KEYS = {"config", "versions", "weights"}
_MOST_SETTINGS = 1000  # of a config, each of which may be a column
_SETTLED_NS = 2_000_000_000  # a file younger than this may change again within one tick of its file system's clock


@dataclass
class RunOnDisk:
    """A run as its folder has it."""

    folder: str
    result: str
    metadata: dict[str, Any] = field(default_factory=dict)  # without config, versions and weights
    settings: dict[str, Any] = field(default_factory=dict)  # the config's single values, by dotted key
    base: str | None = None  # the title of the network, if the run is of a whole one
    problem: str | None = None  # why there are no rows of it


def read_runs(folder: str | Path, *, steps: bool = False) -> tuple[list[RunOnDisk], pd.DataFrame]:
    """All runs below `folder` and their rows, sorted by path; runs that were moved aside as stale are left out.

    Runs are cached one by one in a file in the user's cache folder. A cached run is used as long as neither its
    metadata nor its result has changed on disk. With `steps` nothing is cached: it would be a copy of the results.

    Returns:
        The runs, and a row for each run and epoch (with the last value of each column in it), or step; of a run that
        measures several networks (`VARIANT`), for each of them. Its column `RUN` is an index into the list of runs.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    paths = [
        path
        for path in sorted(folder.rglob("metadata*.yml"), key=str)
        if "stale" not in path.relative_to(folder).parts
    ]  # fmt: skip
    cache = None if steps else _RunCache.load(_cache_file(folder))
    runs: list[RunOnDisk] = []
    stamps: list[Any] = []
    frames: list[pd.DataFrame] = []
    new_index: dict[int, int] = {}  # of cached runs: index in `runs`, by index in the cache
    for number, path in enumerate(paths):
        run_folder = RunFolder.of_metadata(path)
        stamp = _stamp(path, run_folder.steps)
        stamps.append(stamp if _is_settled(stamp) else None)
        cached = cache.index_of(str(run_folder.result), stamp) if cache else None
        if cache and cached is not None:
            new_index[cached] = number
            runs.append(cache.runs[cached])
            continue
        run, rows = _read(run_folder, steps)
        runs.append(run)
        if rows is not None:
            frames.append(rows.assign(**{RUN: number}))
    if cache and new_index:
        rows = cache.rows.assign(**{RUN: cache.rows[RUN].map(new_index)}).dropna(subset=RUN)
        frames.append(rows.astype({RUN: "int64"}))
    table = _in_order(frames)
    if cache and (len(new_index) < len(runs) or len(cache.runs) != len(runs)):
        _RunCache(runs, stamps, table).save(_cache_file(folder))
    return runs, table


def _read(folder: RunFolder, steps: bool) -> tuple[RunOnDisk, pd.DataFrame | None]:
    run = RunOnDisk(str(folder.path), str(folder.result))
    try:
        metadata = folder.read_metadata() or {}
        config = metadata.get("config") or {}
        run.settings = _as_cached(_single_values(config))
        if len(run.settings) > _MOST_SETTINGS:
            raise UserError(f"the config in {folder.metadata} has {len(run.settings):,} settings")
        run.metadata = _as_cached({key: value for key, value in metadata.items() if key not in _LONG_KEYS})
        run.base = _base(config)
        rows = read_steps(folder, metadata)
        if rows.empty:
            raise UserError(f"{folder.steps} is still empty")
    except UserError as error:
        run.problem = error.problem
        return run, None
    if not steps:
        rows = rows.drop_duplicates([name for name in (VARIANT, "Epoch") if name in rows], keep="last")
    return run, rows


def _as_cached(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data as it comes back from the cache."""
    cached: dict[str, Any] = json.loads(json.dumps(data, default=str))
    return cached


def _single_values(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The settings that can differ between runs, by dotted key; lists as text."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{above}{name}"
        if key in _NO_SETTINGS or key == "train_config.seed":  # metadata has the seed
            continue
        if isinstance(value, dict):
            values |= _single_values(value, f"{key}.")
        else:
            values[key] = json.dumps(value, default=str) if isinstance(value, list) else value
    return values


def _base(config: dict[str, Any]) -> str | None:
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("Net"), dict):
        return None
    with suppress(ValueError, UserError):  # written by a version with other parts
        return printable(ModelFields.model_validate(model["Net"]).title)
    return None


def _in_order(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table: the runs in their order; step, epoch, loss and rate first, timings last, everything else by name."""
    if not frames:
        return pd.DataFrame({RUN: pd.Series(dtype="int64")})
    table = pd.concat(frames, ignore_index=True)
    table = table.sort_values(RUN, kind="stable", ignore_index=True)  # the steps of a run are in order already
    # A column that no run fills any more must not come back with cached rows.
    empty = {name for name in table.columns if name not in (RUN, *_FIRST) and table[name].isna().all()}
    names = set(table.columns) - empty
    others = sorted(
        names - {RUN, *_FIRST, *TIMING_COLUMNS}, key=lambda name: (str(name).startswith("Overall"), str(name))
    )
    return table[[name for name in (RUN, *_FIRST, *others, *TIMING_COLUMNS) if name in names]]


# ------------------------------------------------------------------------ cache


def _stamp(*paths: Path) -> list[list[int] | None]:
    """Modification time, size and change time of files. Neither a copy nor `touch` can set the change time."""
    stamps: list[list[int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append([status.st_mtime_ns, status.st_size, status.st_ctime_ns])
    return stamps


def _is_settled(stamp: list[list[int] | None]) -> bool:
    return all(file is None or time.time_ns() - max(file[0], file[2]) > _SETTLED_NS for file in stamp)


@dataclass
class _RunCache:
    """The runs below one folder as they were read, the stamps of their files, and their rows by epoch."""

    runs: list[RunOnDisk]
    stamps: list[Any]
    rows: pd.DataFrame

    def __post_init__(self) -> None:
        self._indices = {run.result: index for index, run in enumerate(self.runs)}

    def index_of(self, result: str, stamp: object) -> int | None:
        """The index of a run in `runs`; None if it is not cached or its files have changed since."""
        index = self._indices.get(result)
        return index if index is not None and self.stamps[index] == stamp else None

    @classmethod
    def load(cls, path: Path) -> _RunCache:
        """Read a cache file; empty if the file is damaged or was written by another version of the code."""
        if data := read_cached(path):
            table = pq.read_table(pa.BufferReader(data))
            header = json.loads(table.schema.metadata[b"stitching"])
            if header["code"] == package_digest():
                return cls([RunOnDisk(**run) for run in header["runs"]], header["stamps"], table.to_pandas())
        return cls([], [], pd.DataFrame({RUN: pd.Series(dtype="int64")}))

    def save(self, path: Path) -> None:
        """Write the cache file; silent where that fails, as everything can be read again."""
        header = {"code": package_digest(), "stamps": self.stamps, "runs": [asdict(run) for run in self.runs]}
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), b"stitching": json.dumps(header).encode()}
        )
        out = io.BytesIO()
        pq.write_table(table, out)
        write_cached(path, out.getvalue())


def _cache_file(folder: Path) -> Path:
    """A file for each folder that is loaded."""
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_folder() / f"results-{name}.kept"
