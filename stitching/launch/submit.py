"""Submitting a plan: what is already there, the run folders, and handing the tasks to a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from stitching.config.clusters import Profile
from stitching.config.errors import ErrorCollector, UserError, at, unknown_name
from stitching.data.datasets import look_for_dataset
from stitching.launch.packing import packed
from stitching.launch.prefetch_weights import fetch_weights
from stitching.launch.records import Submitted, one_submit_at_a_time
from stitching.launch.schedulers.local import run_locally
from stitching.launch.schedulers.slurm import sbatch_scripts, settle_records, submit_arrays
from stitching.launch.status import SLURM_FOLDER, in_queue
from stitching.runs.folder import FolderBusy, RunFolder, write_yaml
from stitching.runs.kinds import kind_of
from stitching.runs.state import state_on_disk
from stitching.sweeps.plan import Plan, PlannedRun, ProgressCallback

__all__ = [
    "CLUSTERS", "Cluster", "Queued", "Submission", "look_for_data", "not_done", "scripts_for_slurm", "state_of",
    "submit", "submit_to_slurm",
]  # fmt: skip


class Cluster(Protocol):
    """Where tasks run: takes lists of run folders, gives the names of the runs that failed and why."""

    def __call__(self, tasks: list[list[RunFolder]], *, jobs: int, on_progress: ProgressCallback) -> dict[str, str]:
        """Run every task, at most `jobs` at once."""


CLUSTERS: dict[str, Cluster] = {"local": run_locally}


@dataclass(frozen=True)
class Submission:
    """What became of a plan."""

    started: list[PlannedRun]  # those that have come to an end here, `failures` included
    done_before: list[PlannedRun]
    elsewhere: list[PlannedRun]  # those that another process is training
    failures: dict[str, str]  # reasons, by the run's name


def state_of(plan: Plan, run: PlannedRun) -> str:
    """What the run's folder says of it, as `state_on_disk` has it."""
    return state_on_disk(plan.expected(run))[0]


def look_for_data(plan: Plan) -> None:
    """Make sure that the data sets of the plan are there.

    Raises:
        UserError: they are not; says what was looked for and where.
    """
    mistakes = ErrorCollector()
    jobs = [run.job for run in plan.runs if run.job]
    data_sets = ((name, job.data_path) for job in jobs for name in kind_of(job).data_sets(job))
    for name, data_path in dict.fromkeys(data_sets):
        with mistakes.collect(), at("train_config", "dataset"):
            look_for_dataset(name, data_path)
    mistakes.raise_all()


def submit(
    plan: Plan,
    cluster: str,
    *,
    pack: int,
    jobs: int,
    among: Collection[str] | None = None,
    on_progress: ProgressCallback = lambda *_: None,
) -> Submission:
    """Run what of the plan is not done yet.

    Runs made with another config are moved to the folder `stale` beside them and run again: an old result never
    stands for a new config, and none is lost. Published weights that are not on this machine yet are fetched first.

    Args:
        plan: what there is to do.
        cluster: a name in `CLUSTERS`.
        pack: runs that share one pass over the data, at most.
        jobs: processes at once.
        among: only these runs, by name; None: all of them.
        on_progress: shows progress.

    Raises:
        UserError: there is no such cluster, weights cannot be had, or the folders cannot be written.
    """
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS, path=("--cluster",))
    done = {run.name for run in plan.runs if state_of(plan, run) == "done"}
    open_ones = [run for run in _chosen(plan, among) if run.name not in done]
    fetch_weights(open_ones, on_progress)
    todo = [run for run in open_ones if _prepared(plan, run)]
    tasks = _tasks(plan, todo, pack)
    failures = CLUSTERS[cluster](tasks, jobs=jobs, on_progress=on_progress) if tasks else {}
    # Another `submit` of the same plan may have been faster with some of them, and be at them still.
    ended = {run.name for run in todo if run.name in failures or state_of(plan, run) == "done"}
    return Submission(
        started=[run for run in plan.runs if run.name in ended],
        done_before=[run for run in plan.runs if run.name in done],
        elsewhere=[run for run in open_ones if run.name not in ended],
        failures=failures,
    )


@dataclass(frozen=True)
class Queued:
    """What became of a plan that was handed to Slurm."""

    tasks: list[Submitted]
    done_before: list[PlannedRun]
    in_queue_before: list[PlannedRun]
    outdated: list[PlannedRun]  # of these, those that were queued with another config than the plan's


def submit_to_slurm(
    plan: Plan,
    cluster: str,
    profile: Profile,
    *,
    pack: int,
    among: Collection[str] | None = None,
    on_progress: ProgressCallback = lambda *_: None,
) -> Queued:
    """Put what of the plan is neither done nor in the queue into Slurm's queue, and return.

    Two of these at once take turns, so that no run is in the queue twice. Arguments are as for `submit`.

    Raises:
        UserError: Slurm cannot be had or refuses, weights cannot be had, or the folders cannot be written.
    """
    with one_submit_at_a_time(plan.folder):
        settle_records(plan.folder / SLURM_FOLDER)
        waiting = in_queue(plan.folder)
        states = {run.name: state_of(plan, run) for run in plan.runs}
        done = [run for run in plan.runs if states[run.name] == "done"]
        held = [run for run in plan.runs if run.name in waiting]
        outdated = [run for run in held if states[run.name] == "stale"]
        settled = {run.name for run in (*done, *held)}
        todo = []
        others = [run for run in _chosen(plan, among) if run.name not in settled]
        fetch_weights(others, on_progress)  # the jobs may have no internet
        for number, run in enumerate(others):
            on_progress(number, len(others), "writing configs")
            if _prepared(plan, run):
                todo.append(run)
        tasks = _tasks(plan, todo, pack)
        submitted = submit_arrays(tasks, plan.folder / SLURM_FOLDER, cluster, profile) if tasks else []
    return Queued(submitted, done, held, outdated)


def scripts_for_slurm(plan: Plan, profile: Profile, *, pack: int, among: Collection[str] | None = None) -> list[str]:
    """The sbatch scripts that `submit_to_slurm` would submit; nothing is written."""
    waiting = in_queue(plan.folder)
    todo = [run for run in not_done(plan, among) if run.name not in waiting]
    return sbatch_scripts(_tasks(plan, todo, pack), plan.folder / SLURM_FOLDER, profile)


def not_done(plan: Plan, among: Collection[str] | None = None) -> list[PlannedRun]:
    """The runs of the plan (by name among `among`) that have no finished result."""
    return [run for run in _chosen(plan, among) if state_of(plan, run) != "done"]


def _chosen(plan: Plan, among: Collection[str] | None) -> list[PlannedRun]:
    return plan.runs if among is None else [run for run in plan.runs if run.name in among]


def _tasks(plan: Plan, runs: list[PlannedRun], pack: int) -> list[list[RunFolder]]:
    return [[plan.folder_of(run) for run in each] for each in packed(runs, pack)]


def _prepared(plan: Plan, run: PlannedRun) -> bool:
    """Make the run's folder with its config and what is known of it; False if another process is at it, or was."""
    assert run.job is not None
    folder = plan.folder_of(run)
    try:
        with folder.locked():
            state = state_of(plan, run)  # again: it may have changed before the folder was ours
            if state == "done":
                return False
            if state == "stale" or not _has_readable_metadata(folder):
                _move_aside(plan, folder)
            # Written each time: a config that was damaged on disk is whole again, an old failure forgotten.
            write_yaml(folder.path / "config.yml", run.job.to_yaml())
            write_yaml(folder.metadata, {**plan.metadata(run), "state": "submitted", "identity": run.identity})
    except FolderBusy:
        return False
    return True


def _has_readable_metadata(folder: RunFolder) -> bool:
    """Whether it is known what the files in the folder are of, if there are any."""
    try:
        folder.read_metadata()
    except UserError:
        return False
    return True


def _move_aside(plan: Plan, folder: RunFolder) -> None:
    try:
        old = str((folder.read_metadata() or {}).get("identity", "unknown"))[:8]
    except UserError:
        old = "damaged"
    aside = plan.folder / "stale" / f"{folder.path.name}-{old}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for file in folder.path.iterdir():
            if not file.name.startswith("."):  # not the lock, which is held
                shutil.move(file, aside / file.name)
    except OSError as error:
        raise UserError(f"cannot move the old result in {folder.path} to {aside}: {error.strerror}") from None
