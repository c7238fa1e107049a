"""What sweeps leave beside their runs that no run needs: snapshots of the code; logs and records of what was queued."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stitching.config.errors import UserError
from stitching.launch.records import RECORDS, Record, damaged_records, one_submit_at_a_time, read_records
from stitching.launch.snapshots import SNAPSHOTS, nobody_submits
from stitching.launch.submitted import Held, ask_schedulers, newest_tasks
from stitching.runs.folder import RunFolder
from stitching.runs.state import ExpectedRun, state_on_disk

__all__ = ["Leftover", "Leftovers", "remove_leftovers"]


@dataclass(frozen=True)
class Leftover:
    """Files that no run needs any more."""

    words: str
    paths: list[Path]
    bytes: int


@dataclass(frozen=True)
class Leftovers:
    """What was removed of a sweep and its project's snapshots, and why something that looks like it was kept."""

    removed: list[Leftover] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def remove_leftovers(folder: Path, runs: Sequence[ExpectedRun], *, dry_run: bool = False) -> Leftovers:
    """Remove the records, pickles and logs of a sweep's tasks, and its project's snapshots, that no run needs any more.

    A task is needed while a scheduler holds it, and while it is the newest of a run that is not done: its log says why.
    Where the scheduler cannot be asked, every task of a run that is not done is needed. A snapshot is needed by the
    tasks of all sweeps that lie beside this one. Results are not touched.

    Args:
        folder: of the sweep.
        runs: what the sweep expects in it; other runs that are in it count, too.
        dry_run: only say what would be removed.

    Raises:
        UserError: something cannot be removed.
    """
    leftovers = Leftovers()
    folder = Path(os.path.abspath(folder))  # `..` has no parent by its name
    if not folder.is_dir():
        return leftovers
    with one_submit_at_a_time(folder):
        sweeps = sorted(path.parent for path in folder.parent.glob(f"*/{RECORDS}"))
        held = _held_tasks(sweeps, leftovers)
        for record, needed in _needed_tasks(folder, runs, held):
            _look_at_record(folder / RECORDS, record, needed, leftovers)
        _remove(leftovers, dry_run)
        snapshots = folder.parent / SNAPSHOTS
        if snapshots.is_dir():
            with nobody_submits(snapshots) as free:
                if free:
                    before = len(leftovers.removed)
                    _look_at_snapshots(snapshots, sweeps, {folder: runs}, held, leftovers)
                    _remove(Leftovers(leftovers.removed[before:]), dry_run)
                else:
                    users = "a submit or a local sweep is using them, or the disk has no locks"
                    leftovers.kept.append(f"the snapshots in {snapshots}: {users}")
    return leftovers


def _held_tasks(sweeps: Iterable[Path], leftovers: Leftovers) -> Held:
    """What the schedulers hold; those that cannot be asked are noted under `leftovers.kept`."""
    records = [record for sweep in sweeps for record in read_records(sweep / RECORDS)]
    held = ask_schedulers(records, next(iter(sweeps), Path()))
    leftovers.kept.extend(f"all tasks of runs that are not done: {reason}" for reason in held.no_answer.values())
    return held


def _needed_tasks(sweep: Path, runs: Sequence[ExpectedRun], held: Held) -> list[tuple[Record, set[str]]]:
    """The records of a sweep, each with the ids of those of its tasks that are needed."""
    expected = {run.name: run for run in runs}
    newest = newest_tasks(sweep)

    def is_unfinished(name: str) -> bool:
        run = expected.get(name) or ExpectedRun(RunFolder.found_in(sweep / name))
        return run.folder.path.is_dir() and state_on_disk(run)[0] != "done"

    needed = []
    for record in read_records(sweep / RECORDS):
        ids = set()
        for id, names in zip(record.ids(), record.tasks, strict=True):
            unfinished = [name for name in names if is_unfinished(name)]
            if record.scheduler in held.no_answer:
                is_needed = bool(unfinished)
            else:
                is_newest = any(newest[name].id == id for name in unfinished if name in newest)
                is_needed = (record.scheduler, id) in held.states or is_newest
            # One whose submission was cut off may be in the queue; the next submit finds out.
            if is_needed or record.job is None:
                ids.add(id)
        needed.append((record, ids))
    return needed


def _look_at_record(slurm: Path, record: Record, needed: set[str], leftovers: Leftovers) -> None:
    logs = slurm / record.name
    if not needed:
        leftovers.removed.append(
            _leftover(f"record, pickles and logs of job {record.job}", [slurm / f"{record.name}.json", logs])
        )
        return
    over = [id for id in record.ids() if id not in needed]
    files = [path for id in over for path in (*logs.glob(f"{id}_*"), *logs.glob(f"{id}.*"))]
    if files:
        leftovers.removed.append(_leftover(f"pickles and logs of {len(over)} tasks of job {record.job}", files))
    leftovers.kept.append(f"{len(needed)} tasks of job {record.job}: queued, or of runs that are not done")


def _look_at_snapshots(
    snapshots: Path,
    sweeps: Sequence[Path],
    runs: dict[Path, Sequence[ExpectedRun]],
    held: Held,
    leftovers: Leftovers,
) -> None:
    damaged = [path for sweep in sweeps for path in damaged_records(sweep / RECORDS)]
    if damaged:
        leftovers.kept.append(f"all snapshots: {damaged[0]} is damaged, and it is not known which of them it needs")
        return
    needed = {
        record.code
        for sweep in sweeps
        for record, ids in _needed_tasks(sweep, runs.get(sweep, []), held)
        if ids
    }  # fmt: skip
    for path in sorted(snapshots.iterdir()):
        if path.is_dir() and path.name not in needed:
            leftovers.removed.append(_leftover(f"code {path.name.strip('.')}", [path]))
        elif path.is_dir():
            leftovers.kept.append(f"code {path.name}: needed by tasks that were kept")


def _leftover(words: str, paths: list[Path]) -> Leftover:
    files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file() and not file.is_symlink()]
    return Leftover(words, paths, sum(file.stat().st_size for file in files))


def _remove(leftovers: Leftovers, dry_run: bool) -> None:
    for path in (path for leftover in leftovers.removed for path in leftover.paths if not dry_run):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {path}: {error.strerror}") from None
