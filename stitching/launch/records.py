"""Records of what was submitted to Slurm, in the folder `slurm` of a sweep: a file for each call of sbatch.

A record is written before the call, without the job's id, and again after it. Its name is in the job's name, so that a
job whose submission was cut off between the two is found again. No record holds a path that it depends on: a sweep's
folder may be moved.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from stitching.runs.checked import Damaged, checked_json, read_checked_json
from stitching.runs.folder import write_whole
from stitching.runs.locks import file_lock

__all__ = [
    "Record",
    "Submitted",
    "damaged_records",
    "job_name",
    "new_record",
    "one_submit_at_a_time",
    "read_records",
    "write_record",
]

_NAME = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")  # other people's files in the folder have other names
_JOB = "stitching-"  # begins the names of our jobs


@dataclass(frozen=True)
class Submitted:
    """One element of an array that was submitted: its id in Slurm, and its runs by name."""

    id: str
    cluster: str
    runs: tuple[str, ...]
    log: Path
    code: str = ""  # the digest of the snapshot that it runs
    left_behind: str = ""  # the sweep's folder when it was submitted, if it is not this one: it will not find this one


@dataclass(frozen=True)
class Record:
    """What one call of sbatch submits: tasks in their order, each with the names of its runs."""

    name: str  # of its file, of the folder with its pickles and logs, and within the job's name
    cluster: str
    code: str
    sweep: str  # the sweep's folder when it was submitted, which the tasks look for
    tasks: tuple[tuple[str, ...], ...]
    job: str | None = None  # the array's id in Slurm; None until sbatch has answered

    @property
    def job_name(self) -> str:
        return job_name(self.name)

    def task_id(self, number: int) -> str:
        """A task's id in Slurm; a job of one task is no array."""
        return f"{self.job}_{number}" if len(self.tasks) > 1 else str(self.job)

    def submitted(self, folder: Path) -> list[Submitted]:
        """Its tasks; `folder` is the one that the record lies in."""
        if self.job is None:
            return []
        left_behind = "" if _same_folder(self.sweep, folder.parent) else self.sweep
        ids = [self.task_id(number) for number in range(len(self.tasks))]
        return [
            Submitted(id, self.cluster, runs, folder / self.name / f"{id}_0_log.out", self.code, left_behind)
            for id, runs in zip(ids, self.tasks, strict=True)
        ]


def job_name(name: str) -> str:
    """The job's name in Slurm that goes with a record's name."""
    return _JOB + name


def new_record(folder: Path, cluster: str, code: str, tasks: Sequence[Iterable[str]]) -> Record:
    """A record of tasks that are about to be submitted; `folder` is the one that it will lie in."""
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
    return Record(name, cluster, code, str(folder.absolute().parent), tuple(tuple(runs) for runs in tasks))


def write_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all.

    Raises:
        UserError: the folder cannot be written to.
    """
    content = {key: value for key, value in asdict(record).items() if key != "name"}
    write_whole(folder / f"{record.name}.json", lambda file: file.write(checked_json(content)))


def read_records(folder: Path) -> list[Record]:
    """The records in a sweep's folder `slurm` that are whole, oldest first."""
    return _read(folder)[0]


def damaged_records(folder: Path) -> list[Path]:
    """The records in a sweep's folder `slurm` that are not as they were written."""
    return _read(folder)[1]


@contextmanager
def one_submit_at_a_time(sweep: Path) -> Iterator[None]:
    """Wait until no other process submits from the folder `sweep`, and let none begin within this context.

    Raises:
        UserError: the folder cannot be written to, or has no locks.
    """
    with file_lock(sweep / ".submit.lock", waits=True):
        yield


def _read(folder: Path) -> tuple[list[Record], list[Path]]:
    records, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        if not _NAME.fullmatch(path.stem):
            continue
        try:
            content = read_checked_json(path)
            tasks = tuple(tuple(runs) for runs in content.pop("tasks"))
            records.append(Record(name=path.stem, tasks=tasks, **content))
        except FileNotFoundError:
            continue  # removed just now
        except (OSError, Damaged, AttributeError, KeyError, TypeError):
            damaged.append(path)
    return records, damaged


def _same_folder(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
