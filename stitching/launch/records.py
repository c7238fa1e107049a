"""Records of what was submitted to a queue, in the folder `slurm` of a sweep: a file for each call of sbatch.

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
    "RECORDS",
    "Record",
    "Submitted",
    "damaged_records",
    "job_name",
    "new_record",
    "one_submit_at_a_time",
    "read_records",
    "task_ids",
    "write_record",
]

RECORDS = "slurm"  # within a sweep's folder: the records, and beside each a folder with the logs of its tasks
_NAME = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")  # other files in the folder are not records
_JOB = "stitching-"  # begins the names of our jobs


@dataclass(frozen=True)
class Submitted:
    """A task that was submitted: its id in the scheduler, and its runs by name."""

    id: str
    cluster: str
    scheduler: str
    runs: tuple[str, ...]
    log: Path  # its output, once it has started
    code: str = ""  # the digest of the snapshot that it runs
    left_behind: str = ""  # the sweep's folder when it was submitted, if it is not this one: it will not find this one


@dataclass(frozen=True)
class Record:
    """What is submitted in one call: tasks in their order, each with the names of its runs."""

    name: str  # of its file, of the folder with its pickles and logs, and within the job's name
    cluster: str
    code: str
    sweep: str  # the sweep's folder when it was submitted, which the tasks look for
    tasks: tuple[tuple[str, ...], ...]
    job: str | None = None  # its id in the scheduler; None until that has answered
    scheduler: str = "slurm"  # older records have neither of these two
    log_name: str = "{id}_0_log.out"

    @property
    def job_name(self) -> str:
        return job_name(self.name)

    def ids(self) -> list[str]:
        """The ids of its tasks in the scheduler."""
        return task_ids(str(self.job), len(self.tasks))

    def submitted(self, folder: Path) -> list[Submitted]:
        """Its tasks, once they have ids; `folder` is the one that the record lies in."""
        if self.job is None:
            return []
        left_behind = "" if _same_folder(self.sweep, folder.parent) else self.sweep
        logs = folder / self.name
        return [
            Submitted(
                id, self.cluster, self.scheduler, runs, logs / self.log_name.replace("{id}", id), self.code, left_behind
            )
            for id, runs in zip(self.ids(), self.tasks, strict=True)
        ]


def task_ids(job: str, count: int) -> list[str]:
    """The ids of the tasks of a job: `123_0`, `123_1`, ..., or the job's own if there is but one."""
    return [f"{job}_{number}" for number in range(count)] if count > 1 else [job]


def job_name(name: str) -> str:
    """The name of the job that goes with a record's name."""
    return _JOB + name


def new_record(
    folder: Path,
    cluster: str,
    code: str,
    tasks: Sequence[Iterable[str]],
    *,
    scheduler: str = Record.scheduler,
    log_name: str = Record.log_name,
) -> Record:
    """A record of tasks that are about to be submitted; `folder` is the one that it will lie in."""
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
    return Record(
        name=name,
        cluster=cluster,
        code=code,
        sweep=str(folder.absolute().parent),
        tasks=tuple(tuple(runs) for runs in tasks),
        scheduler=scheduler,
        log_name=log_name,
    )


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


def _same_folder(recorded: str, folder: Path) -> bool:
    try:
        return os.path.samefile(recorded, folder)
    except OSError:
        return False
