"""What all schedulers with a queue share: records of what was handed over, written before it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.launch.records import Record, new_record, read_records, write_record
from stitching.launch.schedulers import Batch, Cluster, Scheduler, Started
from stitching.launch.snapshots import current_snapshot, snapshot_path
from stitching.launch.submitted import settle_records
from stitching.progress import ProgressCallback
from stitching.runs.folder import RunFolder

__all__ = ["QueueScheduler"]


class QueueScheduler(Scheduler, ABC):
    """A scheduler that takes tasks and runs them later: `submit`, `script`, `states` and `cancel` are all it needs."""

    has_queue = True

    def largest_batch(self) -> int:
        """How many tasks one call of `submit` may have. Of several, the ids are `JOB_0`, `JOB_1`, ..."""
        return 1

    def settle(self, folder: Path) -> None:
        """Complete or remove the records of submissions that were cut off."""
        settle_records(folder)

    @abstractmethod
    def submit(self, batch: Batch, cluster: Cluster) -> str:
        """Put the tasks of a batch into the queue; returns the job's id. Raises `UserError` if they are refused."""

    @abstractmethod
    def script(self, batch: Batch, profile: Any) -> str:
        """What `submit` hands over, as text; nothing is written, and the batch's folder does not exist."""

    def start(
        self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster, on_progress: ProgressCallback
    ) -> Started:
        """Submit every task, as many in one call as the scheduler takes. Arguments are as for `Scheduler.start`.

        A record is written before each call and completed after it, so that what is in the queue is known even if a
        later call fails or this process is killed.
        """
        started = Started()
        with current_snapshot(folder.parent) as snapshot:
            for part in _parts(tasks, self.largest_batch()):
                on_progress(len(started.tasks), len(tasks), f"submitting to {cluster.name}")
                try:
                    record = self._hand_over(part, folder, cluster, snapshot)
                except UserError as error:
                    runs = sum(len(task.runs) for task in started.tasks)
                    error.do = f"{runs} runs were submitted before. {error.do or ''}".strip()
                    raise
                started.tasks.extend(record.submitted(folder))
        return started

    def _hand_over(
        self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster, snapshot: Path
    ) -> Record:
        names = [[run.path.name for run in task] for task in tasks]
        record = new_record(folder, cluster.name, snapshot.name, names, scheduler=self.name, log_name=self.log_name)
        batch = Batch(record.job_name, folder / record.name, _paths(tasks), snapshot)
        batch.folder.mkdir(parents=True)
        write_record(folder, record)
        try:
            record = replace(record, job=self.submit(batch, cluster))
        except UserError:
            with suppress(UserError):
                settle_records(folder)  # it may have given up waiting for an answer, and the queue have taken the job
            settled = next((other for other in read_records(folder) if other.name == record.name and other.job), None)
            if settled is None:
                raise
            return settled
        write_record(folder, record)
        return record

    def scripts(self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster) -> list[str]:
        """The script of each call of `submit`."""
        snapshot = snapshot_path(folder.parent)
        return [
            self.script(Batch("dry-run", folder / "NAME", _paths(part), snapshot), cluster.profile)
            for part in _parts(tasks, self.largest_batch())
        ]


def _parts(tasks: Sequence[Sequence[RunFolder]], most: int) -> Iterator[Sequence[Sequence[RunFolder]]]:
    for start in range(0, len(tasks), most):
        yield tasks[start : start + most]


def _paths(tasks: Sequence[Sequence[RunFolder]]) -> tuple[tuple[Path, ...], ...]:
    return tuple(tuple(run.path for run in task) for task in tasks)
