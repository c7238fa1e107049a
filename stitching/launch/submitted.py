"""What was submitted from a sweep's folder, and what the schedulers say of it now."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from stitching.config.errors import UserError
from stitching.launch.records import (
    RECORDS,
    Record,
    Submitted,
    damaged_records,
    job_name,
    read_records,
    write_record,
)  # fmt: skip
from stitching.launch.schedulers import SCHEDULERS, Batch, Scheduler, TaskEnd, TaskState, find_scheduler
from stitching.launch.snapshots import snapshot_path

__all__ = [
    "Held",
    "ask_schedulers",
    "ends_of",
    "failed_nodes",
    "newest_tasks",
    "queued_runs",
    "settle_records",
    "submitted_tasks",
]


@dataclass(frozen=True)
class Held:
    """The tasks that schedulers hold, waiting or running."""

    states: dict[tuple[str, str], TaskState] = field(default_factory=dict)  # by scheduler and id
    no_answer: dict[str, str] = field(default_factory=dict)  # of schedulers that cannot be asked: why not

    def state_of(self, task: Submitted) -> TaskState | None:
        """What its scheduler says of a task; None if it holds no such task, or cannot be asked."""
        return self.states.get((task.scheduler, task.id))


def ask_schedulers(tasks: Iterable[Submitted | Record], folder: Path) -> Held:
    """What the schedulers of these tasks hold; each is asked once, and none for nothing.

    Args:
        tasks: those of interest.
        folder: of a sweep; its project's plugins are loaded if a scheduler is theirs.
    """
    held = Held()
    for name in dict.fromkeys(task.scheduler for task in tasks):
        try:
            states = _scheduler(name, folder).states()
        except UserError as error:
            held.no_answer[name] = error.problem
        else:
            held.states.update({(name, id): state for id, state in states.items()})
    return held


def ends_of(tasks: Sequence[Submitted], folder: Path) -> Mapping[tuple[str, str], TaskEnd]:
    """How tasks ended that no scheduler holds any more, by scheduler and id, as far as the schedulers know."""
    ends: dict[tuple[str, str], TaskEnd] = {}
    for name in dict.fromkeys(task.scheduler for task in tasks):
        with suppress(UserError):
            of_scheduler = [task for task in tasks if task.scheduler == name]
            ends |= {(name, id): end for id, end in _scheduler(name, folder).ends(of_scheduler).items()}
    return ends


def submitted_tasks(folder: Path) -> list[Submitted]:
    """What was submitted from a sweep's folder, oldest first; `folder` is the one of its records.

    Schedulers are asked only where a submission was cut off, and what they cannot say is left out.
    """
    records = read_records(folder)
    jobs: dict[str, str] = {}
    with suppress(UserError):
        jobs = _jobs_of([record for record in records if record.job is None], folder)
    named = (replace(record, job=record.job or jobs.get(record.job_name)) for record in records)
    return [task for record in named for task in record.submitted(folder)]


def newest_tasks(folder: Path) -> dict[str, Submitted]:
    """The task that each run of a sweep's folder was last submitted with, by the run's name."""
    return {name: task for task in submitted_tasks(folder / RECORDS) for name in task.runs}


def queued_runs(folder: Path) -> tuple[dict[str, Submitted], dict[str, str]]:
    """The runs of a sweep's folder that wait in a queue or run from one, by name.

    Returns:
        Their tasks, and the schedulers that cannot be asked, each with the reason.
    """
    newest = {name: task for name, task in newest_tasks(folder).items() if not task.left_behind}
    held = ask_schedulers(newest.values(), folder)
    return {name: task for name, task in newest.items() if held.state_of(task)}, held.no_answer


def failed_nodes(folder: Path) -> list[str]:
    """The nodes that failed under tasks of a sweep's folder, as far as their schedulers know."""
    ends = ends_of(submitted_tasks(folder / RECORDS), folder)
    return sorted({node for end in ends.values() for node in end.failed_nodes})


def settle_records(folder: Path) -> None:
    """Complete the records of submissions that were cut off, or remove those whose job is in no queue.

    Only for the one process that submits in the sweep's folder: what another is about to submit looks the same.

    Args:
        folder: of the records.

    Raises:
        UserError: a scheduler cannot be asked, or it holds a job whose record is damaged.
    """
    for path in damaged_records(folder):
        _check_not_held(path)
    cut_off = [record for record in read_records(folder) if record.job is None]
    jobs = _jobs_of(cut_off, folder)
    for record in cut_off:
        if record.job_name in jobs:
            record = replace(record, job=jobs[record.job_name])
            sweep = Path(record.sweep)
            runs = tuple(tuple(sweep / name for name in names) for names in record.tasks)
            batch = Batch(record.job_name, folder / record.name, runs, snapshot_path(sweep).with_name(record.code))
            _scheduler(record.scheduler, folder).complete(batch, str(record.job))
            write_record(folder, record)
        else:
            # Should it still be under way, its job finds no files of its batch and ends: the runs are submitted anew.
            shutil.rmtree(folder / record.name, ignore_errors=True)
            (folder / f"{record.name}.json").unlink(missing_ok=True)


def _check_not_held(path: Path) -> None:
    """Raise if a scheduler holds the job that a damaged record is about; which one it was is not known either."""
    for name, entry in SCHEDULERS.items():
        if job := entry(name).jobs_by_name().get(job_name(path.stem)):
            raise UserError(
                f"{path} is damaged, and {name} still holds the job {job}: which runs it trains is not known",
                do=f"Cancel the job {job}, or wait until it is over. Runs resume from their checkpoints.",
            )


def _jobs_of(records: Sequence[Record], folder: Path) -> dict[str, str]:
    """The ids of the jobs that were submitted with these records and that are still held, by the jobs' names."""
    jobs: dict[str, str] = {}
    for name in dict.fromkeys(record.scheduler for record in records):
        ours = {record.job_name for record in records if record.scheduler == name}
        jobs |= {job: id for job, id in _scheduler(name, folder).jobs_by_name().items() if job in ours}
    return jobs


def _scheduler(name: str, folder: Path) -> Scheduler:
    scheduler = find_scheduler(name, folder)
    if scheduler is None:
        raise UserError(
            f"there is no scheduler {name!r} here",
            do="Name the file that registers it under `plugins` in sbatch/clusters.yml.",
        )
    return scheduler
