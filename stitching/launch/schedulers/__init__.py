"""Where tasks run: the protocol of schedulers, their registry, and clusters, which are profiles of a scheduler.

A scheduler is one file: a class that is registered in `SCHEDULERS`. One with a queue starts from `QueueScheduler`
(`queue.py`), which keeps the records. Nothing outside such a file asks which scheduler it is.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.clusters import ClusterProfile, ClustersFile
from stitching.config.errors import UserError, unknown_name
from stitching.config.registries import Registry
from stitching.config.schema import validated
from stitching.launch.endings import Ending
from stitching.launch.records import Submitted, task_ids
from stitching.launch.snapshots import snapshot_environment
from stitching.progress import ProgressCallback

if TYPE_CHECKING:
    from stitching.runs.folder import RunFolder

__all__ = [
    "HERE", "SCHEDULERS", "Batch", "Cluster", "Scheduler", "Started", "TaskEnd", "TaskState",
    "find_scheduler", "load_cluster",
]  # fmt: skip

HERE = "local"  # the cluster of runs that no record is about: they were started on some machine, without a queue


@dataclass(frozen=True)
class TaskState:
    """A task that a scheduler holds."""

    is_waiting: bool  # it has not been started
    words: str = ""  # why it waits, or what it does


@dataclass(frozen=True)
class TaskEnd(Ending):
    """How a task ended that the scheduler no longer holds, and the nodes that failed under it."""

    failed_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Tasks that are handed to a scheduler in one call."""

    name: str  # which the job must have in the scheduler, so that it is found again
    folder: Path  # for the logs, and whatever else the scheduler needs; it exists
    tasks: tuple[tuple[Path, ...], ...]  # the run folders of each
    snapshot: Path  # the copy of the code that they run

    def ids(self, job: str) -> list[str]:
        """The ids of the tasks: the job's own if there is but one."""
        return task_ids(job, len(self.tasks))

    def command(self, number: int) -> list[str]:
        """What runs a task: a program and its arguments. Exit code 0: all its runs are done."""
        paths = map(str, (self.snapshot, *self.tasks[number]))
        return [sys.executable, "-m", "stitching.launch.start", *paths]

    def environment(self) -> dict[str, str]:
        """The environment that `command` needs: this one, with the copy of the code before everything else."""
        return snapshot_environment(self.snapshot)


@dataclass(frozen=True)
class Started:
    """Started tasks: those that are in a queue now, or a function that runs them here until their end."""

    tasks: list[Submitted] = field(default_factory=list)
    run: Callable[[], dict[str, str]] = dict  # returns the reasons of failures, by the names of the runs


@dataclass(frozen=True)
class Cluster:
    """What `--cluster` names: a scheduler, and the profile that says what each task asks for."""

    name: str
    scheduler: Scheduler
    profile: ClusterProfile


class Scheduler(ABC):
    """Where tasks run. It keeps nothing itself: what it needs to know is in the sweep's folder, or its own queue."""

    profile: ClassVar[type[ClusterProfile]] = ClusterProfile  # the keys of its profiles in sbatch/clusters.yml
    has_queue: ClassVar[bool] = False  # if not, whoever submits waits until the tasks have ended
    needs_profile: ClassVar[bool] = True  # if not, its name is a cluster, too
    log_name: ClassVar[str] = "{id}.log"  # of the file with a task's output, in the folder of its batch

    def __init__(self, name: str) -> None:
        self.name = name  # that it is registered with

    def check_reachable(self) -> None:  # noqa: B027 - a scheduler may have nothing to do here
        """Make sure at once that it can be asked at all. Raises `UserError`."""

    def check(self, cluster: Cluster, folder: Path, *, submits: bool) -> None:  # noqa: B027 - a scheduler may have nothing to do here
        """Make sure, before anything is written, that it would take a task.

        Args:
            cluster: the one to be submitted to.
            folder: of the sweep.
            submits: whether there is something to submit; if not, only what costs nothing is checked.

        Raises:
            UserError: it would not; in its own words.
        """

    @abstractmethod
    def start(
        self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster, on_progress: ProgressCallback
    ) -> Started:
        """Start tasks, of which each is run folders with their configs; `folder` is the one for records and logs.

        Raises:
            UserError: it takes none of them, or no more of them; in its own words.
        """

    def scripts(self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster) -> list[str]:
        """What `start` would hand over, as text; nothing is written. Raises `UserError` if there is no such thing."""
        raise UserError(
            f"there is no script of the cluster {cluster.name}", do="`stitching plan` shows what would run."
        )

    def states(self) -> Mapping[str, TaskState]:
        """The tasks that it holds, waiting or running, by id. Raises `UserError` if it cannot be asked."""
        return {}

    def ends(self, tasks: Sequence[Submitted]) -> Mapping[str, TaskEnd]:
        """How tasks ended that it no longer holds, by id, as far as it knows."""
        return {}

    def settle(self, folder: Path) -> None:  # noqa: B027 - a scheduler may have nothing to do here
        """Find out what became of submissions that were cut off; `folder` is the one of the records.

        Raises:
            UserError: that cannot be known now.
        """

    def jobs_by_name(self) -> Mapping[str, str]:
        """The ids of the jobs that it holds, by the names that they were given. Raises `UserError` as `states` does."""
        return {}

    def complete(self, batch: Batch, job: str) -> None:  # noqa: B027 - a scheduler may have nothing to do here
        """Write what a submission was killed before writing, for a job that it holds all the same."""

    def cancel(self, ids: Sequence[str]) -> None:  # noqa: B027 - a scheduler may have nothing to do here
        """Cancel tasks, which save and end if they run. Raises `UserError` if it cannot be asked."""

    def without_nodes(self, profile: Any, nodes: Sequence[str]) -> Any:
        """The profile, changed so that tasks keep off nodes that failed before."""
        return profile


SCHEDULERS: Registry[type[Scheduler]] = Registry("scheduler", "stitching.launch.schedulers.ours")


def load_cluster(name: str, sweep: Path, changes: Mapping[str, object]) -> Cluster:
    """The cluster called `name` of the checkout that the sweep's file lies in, with values of the command line.

    Raises:
        UserError: with file and line: there is no such profile or scheduler, or something in it is wrong.
    """
    if name in SCHEDULERS and not SCHEDULERS[name].needs_profile:
        return _cluster(name, name, ClustersFile.empty(), changes)
    file = ClustersFile.of_project(sweep.parent)
    file.load_plugins()
    without_profile = [other for other, scheduler in SCHEDULERS.items() if not scheduler.needs_profile]
    if name in file.profiles:
        return _cluster(name, file.scheduler_of(name), file, changes)
    if name in without_profile:
        return _cluster(name, name, ClustersFile.empty(), changes)
    unknown = unknown_name("cluster", name, [*without_profile, *file.profiles], path=("--cluster",))
    if not file.exists:
        unknown.do = f"profiles of clusters are looked for in {file.path}, which does not exist"
    raise unknown


def _cluster(name: str, scheduler: str, file: ClustersFile, changes: Mapping[str, object]) -> Cluster:
    if scheduler not in SCHEDULERS:
        raise file.located(unknown_name("scheduler", scheduler, SCHEDULERS, path=(name, "scheduler")))
    entry = SCHEDULERS[scheduler]
    return Cluster(name, entry(scheduler), validated(entry.profile, file.profile(name, changes)))


def find_scheduler(name: str, folder: Path) -> Scheduler | None:
    """The scheduler that a record in a sweep's folder names; None if neither we nor the project's plugins have it."""
    if name not in SCHEDULERS:
        ClustersFile.of_project(folder).load_plugins()
    return SCHEDULERS[name](name) if name in SCHEDULERS else None
