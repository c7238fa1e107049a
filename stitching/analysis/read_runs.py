"""From run folders to what they hold: metadata, settings, and a row for every epoch.

This is the one way from run folders to a table; `stitching.analysis.load` makes the table.
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
from stitching.runs.step_log import TIMING_COLUMNS, read_steps
from stitching.text import printable
from stitching.user_cache import cache_folder, read_cached, write_cached

__all__ = ["RUN", "FoundRun", "read_runs"]

RUN = "number of the run"  # joins rows and runs; not part of what users see

_FIRST = ("Step", "Epoch", "Loss", "LR")
_NO_SETTINGS = {*LEFT_OUT, "model", "assembly", "head", "reference", "device"}
_LONG = {"config", "versions", "weights"}
_MOST_SETTINGS = 1000  # of a config, each of which may be a column
_SETTLED_NS = 2_000_000_000  # a file younger than this may change again within one tick of its file system's clock


@dataclass
class FoundRun:
    """What a run folder says of its run."""

    folder: str
    result: str
    metadata: dict[str, Any] = field(default_factory=dict)  # without config, versions and weights
    settings: dict[str, Any] = field(default_factory=dict)  # the config's single values, by dotted key
    base: str | None = None  # the title of the network, if the run is of a whole one
    problem: str | None = None  # why there are no rows of it


def read_runs(folder: str | Path, *, steps: bool = False) -> tuple[list[FoundRun], pd.DataFrame]:
    """All runs below `folder` in the order of their names, but those that were moved aside as stale, and their rows.

    What was read before is taken from a file in the user's cache folder, run by run, as long as neither the run's
    metadata nor its result has changed on disk. With `steps` nothing is kept, as it would be the results once more.

    Returns:
        The runs, and a row for each run and epoch (with the last value of each column in it), or step; its column `RUN`
        is a place in the list of runs.

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
    kept = None if steps else _Kept.load(_cache_file(folder))
    runs: list[FoundRun] = []
    stamps: list[Any] = []
    frames: list[pd.DataFrame] = []
    again: dict[int, int] = {}  # places of runs in what was kept, and in this list
    for number, path in enumerate(paths):
        place = RunFolder.of_metadata(path)
        stamp = _stamp(path, place.steps)
        stamps.append(stamp if _settled(stamp) else None)
        old = kept.place_of(str(place.result), stamp) if kept else None
        if kept and old is not None:
            again[old] = number
            runs.append(kept.runs[old])
            continue
        run, rows = _read(place, steps)
        runs.append(run)
        if rows is not None:
            frames.append(rows.assign(**{RUN: number}))
    if kept and again:
        rows = kept.rows.assign(**{RUN: kept.rows[RUN].map(again)}).dropna(subset=RUN)
        frames.append(rows.astype({RUN: "int64"}))
    table = _in_order(frames)
    if kept and (len(again) < len(runs) or len(kept.runs) != len(runs)):
        _Kept(runs, stamps, table).save(_cache_file(folder))
    return runs, table


def _read(place: RunFolder, steps: bool) -> tuple[FoundRun, pd.DataFrame | None]:
    run = FoundRun(str(place.path), str(place.result))
    try:
        metadata = place.read_metadata() or {}
        config = metadata.get("config") or {}
        run.settings = _as_kept(_single_values(config))
        if len(run.settings) > _MOST_SETTINGS:
            raise UserError(f"the config in {place.metadata} has {len(run.settings):,} settings")
        run.metadata = _as_kept({key: value for key, value in metadata.items() if key not in _LONG})
        run.base = _base(config)
        rows = read_steps(place, metadata)
        if rows.empty:
            raise UserError(f"{place.steps} is empty yet")
    except UserError as error:
        run.problem = error.problem
        return run, None
    return run, rows if steps else rows.drop_duplicates("Epoch", keep="last")


def _as_kept(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data as it comes back from what is kept."""
    kept: dict[str, Any] = json.loads(json.dumps(data, default=str))
    return kept


def _single_values(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The settings that can differ between runs, by dotted key; lists as text."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{above}{name}"
        if key in _NO_SETTINGS or key == "train_config.seed":  # metadata has the seed
            continue
        if isinstance(value, dict):
            found |= _single_values(value, f"{key}.")
        else:
            found[key] = json.dumps(value, default=str) if isinstance(value, list) else value
    return found


def _base(config: dict[str, Any]) -> str | None:
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("Net"), dict):
        return None
    with suppress(ValueError, UserError):  # of a version that knew other parts
        return printable(ModelFields.model_validate(model["Net"]).title)
    return None


def _in_order(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table: the runs in their order; step, epoch, loss and rate first, timings last, everything else by name."""
    if not frames:
        return pd.DataFrame({RUN: pd.Series(dtype="int64")})
    table = pd.concat(frames, ignore_index=True)
    table = table.sort_values(RUN, kind="stable", ignore_index=True)  # the steps of a run are in order already
    # A column that no run fills any more must not come back with the rows that were kept.
    empty = {name for name in table.columns if name not in (RUN, *_FIRST) and table[name].isna().all()}
    names = set(table.columns) - empty
    others = sorted(
        names - {RUN, *_FIRST, *TIMING_COLUMNS}, key=lambda name: (str(name).startswith("Overall"), str(name))
    )
    return table[[name for name in (RUN, *_FIRST, *others, *TIMING_COLUMNS) if name in names]]


# ------------------------------------------------------------------------ what was read before


def _stamp(*paths: Path) -> list[list[int] | None]:
    """What tells a file's content without reading it. The change time is nothing that a copy or `touch` can set."""
    found: list[list[int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append([status.st_mtime_ns, status.st_size, status.st_ctime_ns])
    return found


def _settled(stamp: list[list[int] | None]) -> bool:
    return all(file is None or time.time_ns() - max(file[0], file[2]) > _SETTLED_NS for file in stamp)


@dataclass
class _Kept:
    """The runs below one folder as they were read, with the stamps of their files, and their rows by epoch."""

    runs: list[FoundRun]
    stamps: list[Any]
    rows: pd.DataFrame

    def __post_init__(self) -> None:
        self._places = {run.result: place for place, run in enumerate(self.runs)}

    def place_of(self, result: str, stamp: object) -> int | None:
        """Where in `runs` the run is, if its files are as they were."""
        place = self._places.get(result)
        return place if place is not None and self.stamps[place] == stamp else None

    @classmethod
    def load(cls, path: Path) -> _Kept:
        """What is kept in a file; nothing if it is damaged, or of another version of the code."""
        if data := read_cached(path):
            table = pq.read_table(pa.BufferReader(data))
            about = json.loads(table.schema.metadata[b"stitching"])
            if about["code"] == package_digest():
                return cls([FoundRun(**run) for run in about["runs"]], about["stamps"], table.to_pandas())
        return cls([], [], pd.DataFrame({RUN: pd.Series(dtype="int64")}))

    def save(self, path: Path) -> None:
        """Write it whole; without a word where that cannot be done, as all of it can be read again."""
        about = {"code": package_digest(), "stamps": self.stamps, "runs": [asdict(run) for run in self.runs]}
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), b"stitching": json.dumps(about).encode()}
        )
        out = io.BytesIO()
        pq.write_table(table, out)
        write_cached(path, out.getvalue())


def _cache_file(folder: Path) -> Path:
    """A file for each folder that is loaded."""
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_folder() / f"results-{name}.kept"
