"""Orders: a plan, what is on disk of its runs (read once), and the cluster that is to run what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stitching.config.errors import ErrorCollector, at
from stitching.data.datasets import look_for_dataset
from stitching.launch.packing import packed
from stitching.launch.records import RECORDS
from stitching.launch.schedulers import Cluster, Scheduler, load_cluster
from stitching.launch.status import RunStatus, status_of_all
from stitching.launch.submitted import queued_runs
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import kind_of
from stitching.runs.state import state_on_disk
from stitching.sweeps.plan import Plan, PlannedRun

__all__ = ["Order", "Survey", "check_orders", "load_orders", "look_for_data", "scripts", "statuses_of", "tasks_of"]


@dataclass(frozen=True)
class Survey:
    """A plan, and what the folder of each of its runs says."""

    plan: Plan
    on_disk: Mapping[str, tuple[str, dict[str, Any]]]  # state and metadata, by the run's name

    @classmethod
    def of(cls, plan: Plan) -> Survey:
        """Look into the folder of every run."""
        return cls(plan, {run.name: state_on_disk(plan.expected(run)) for run in plan.runs})

    def state_of(self, run: PlannedRun) -> str:
        """A run's state, as `state_on_disk` has it."""
        return self.on_disk[run.name][0]


@dataclass(frozen=True)
class Order:
    """What is to be submitted where."""

    survey: Survey
    cluster: Cluster
    among: frozenset[str] | None = None  # only these runs, by name; None: all

    @classmethod
    def of(cls, plan: Plan, cluster: Cluster, among: Collection[str] | None = None) -> Order:
        """An order of a plan whose folders have not been looked into."""
        return cls(Survey.of(plan), cluster, None if among is None else frozenset(among))

    @property
    def plan(self) -> Plan:
        return self.survey.plan

    @property
    def unfinished(self) -> list[PlannedRun]:
        """The runs that were asked for and are not done."""
        return [
            run
            for run in self.plan.runs
            if (self.among is None or run.name in self.among) and self.survey.state_of(run) != "done"
        ]

    def only(self, states: Collection[str]) -> Order:
        """The same order for the runs that `status` shows in one of these states."""
        (statuses,) = statuses_of([self.survey])
        return replace(self, among=frozenset(status.name for status in statuses if status.state in states))


def load_orders(
    files: Sequence[Path], cluster: str, changes: Mapping[str, object], plan_of: Callable[[Path], Plan]
) -> list[Order]:
    """The orders of sweeps, after every check that can be made before anything is written.

    Args:
        files: of the sweeps.
        cluster: the name of the cluster.
        changes: values for the keys of its profile.
        plan_of: makes the plan of a sweep's file, and looks for its data sets.

    Raises:
        UserError: everything that is wrong at once, with file and line; first, that the scheduler cannot be asked.
    """
    errors = ErrorCollector()
    clusters: dict[Path, Cluster] = {}
    for path in files:
        with errors.collect():
            clusters[path] = load_cluster(cluster, path, changes)
    _check_reachable(target.scheduler for target in clusters.values())
    orders = []
    for path in files:
        with errors.collect():
            plan = plan_of(path)
            if path in clusters:
                orders.append(Order.of(plan, clusters[path]))
    check_orders(orders, errors)
    return orders


def check_orders(orders: Iterable[Order], errors: ErrorCollector | None = None) -> None:
    """Make sure that the schedulers would take what the orders ask for.

    Raises:
        UserError: they would not; several errors, and those that `errors` has already, at once.
    """
    errors = errors or ErrorCollector()
    checked = set()
    for order in orders:
        with errors.collect():
            profile = (order.cluster.name, order.cluster.profile.model_dump_json())
            queued, _ = queued_runs(order.plan.folder)
            submits = profile not in checked and any(run.name not in queued for run in order.unfinished)
            order.cluster.scheduler.check(order.cluster, order.plan.folder, submits=submits)
            if submits:
                checked.add(profile)
    errors.raise_all()


def look_for_data(plan: Plan) -> None:
    """Make sure that the data sets of the plan are there.

    Raises:
        UserError: they are not; says what was looked for and where.
    """
    errors = ErrorCollector()
    jobs = [run.job for run in plan.runs if run.job]
    datasets = ((name, job.data_path) for job in jobs for name in kind_of(job).data_sets(job))
    for name, data_path in dict.fromkeys(datasets):
        with errors.collect(), at("train_config", "dataset"):
            look_for_dataset(name, data_path)
    errors.raise_all()


def statuses_of(surveys: Sequence[Survey]) -> list[list[RunStatus]]:
    """The status of every run of every plan; schedulers are asked once for all of them."""
    on_disk = {
        survey.plan.folder_of(run).path: survey.on_disk[run.name] for survey in surveys for run in survey.plan.runs
    }
    sweeps = [(survey.plan.folder, [survey.plan.expected(run) for run in survey.plan.runs]) for survey in surveys]
    statuses = iter(status_of_all(sweeps, read=lambda run: on_disk[run.folder.path]))
    return [[next(statuses) for _ in runs] for _, runs in sweeps]


def tasks_of(plan: Plan, runs: list[PlannedRun], pack: int) -> list[list[RunFolder]]:
    """The tasks that run these runs, at most `pack` in each."""
    return [[plan.folder_of(run) for run in together] for together in packed(runs, pack)]


def scripts(order: Order, *, pack: int) -> list[str]:
    """What would be handed to the scheduler, as text; nothing is written."""
    queued, _ = queued_runs(order.plan.folder)
    runs = [run for run in order.unfinished if run.name not in queued]
    return order.cluster.scheduler.scripts(tasks_of(order.plan, runs, pack), order.plan.folder / RECORDS, order.cluster)


def _check_reachable(schedulers: Iterable[Scheduler]) -> None:
    for scheduler in {scheduler.name: scheduler for scheduler in schedulers}.values():
        scheduler.check_reachable()
