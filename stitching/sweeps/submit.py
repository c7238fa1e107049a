"""Submitting a plan: what is already there, the run folders, and handing the tasks to a cluster."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from stitching.config.clusters import Profile
from stitching.config.errors import UserError, unknown_name
from stitching.sweeps.local import run_locally
from stitching.sweeps.plan import Plan, PlannedRun, Told
from stitching.sweeps.slurm import Submitted, check_profile, sbatch_scripts, submit_arrays
from stitching.sweeps.status import SLURM_FOLDER, in_queue
from stitching.sweeps.tasks import packed
from stitching.sweeps.weights import fetch_weights
from stitching.training.files import FolderBusy, RunFolder, write_yaml
from stitching.training.results import read_result

__all__ = ["CLUSTERS", "Cluster", "Queued", "Submission", "scripts_for_slurm", "state_of", "submit", "submit_to_slurm"]


class Cluster(Protocol):
    """Where tasks run: takes lists of run folders, gives the names of the runs that failed and why."""

    def __call__(
        self, tasks: list[list[RunFolder]], *, jobs: int, told: Callable[[int, int, str], None]
    ) -> dict[str, str]:
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
    """What the run's folder says: `done`, `stale` (made with another config), `failed`, `stopped`, ... or `missing`.

    Done is a whole result of this very config, not what a scheduler remembers.
    """
    folder = plan.folder_of(run)
    metadata = folder.read_metadata() if folder.path.is_dir() else None
    if metadata is None:
        return "missing"
    if metadata.get("identity") not in (None, run.identity):
        return "stale"
    if metadata.get("state") != "done":
        return str(metadata.get("state", "missing"))
    try:
        read_result(folder.result)
    except UserError:
        return "missing"
    return "done"


def submit(plan: Plan, cluster: str, *, pack: int, jobs: int, told: Told = lambda *_: None) -> Submission:
    """Run what of the plan is not done yet.

    Runs made with another config are moved to the folder `stale` beside them and run again: an old result never
    stands for a new config, and none is lost. Published weights that are not on this machine yet are fetched first.

    Raises:
        UserError: there is no such cluster, weights cannot be had, or the folders cannot be written.
    """
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS, path=("--cluster",))
    done = {run.name for run in plan.runs if state_of(plan, run) == "done"}
    fetch_weights([run for run in plan.runs if run.name not in done], told)
    todo = [run for run in plan.runs if run.name not in done and _prepared(plan, run)]
    tasks = _tasks(plan, todo, pack)
    failures = CLUSTERS[cluster](tasks, jobs=jobs, told=told) if tasks else {}
    # Another `submit` of the same plan may have been faster with some of them, and be at them still.
    ended = {run.name for run in todo if run.name in failures or state_of(plan, run) == "done"}
    return Submission(
        started=[run for run in plan.runs if run.name in ended],
        done_before=[run for run in plan.runs if run.name in done],
        elsewhere=[run for run in plan.runs if run.name not in done | ended],
        failures=failures,
    )


@dataclass(frozen=True)
class Queued:
    """What became of a plan that was handed to Slurm."""

    tasks: list[Submitted]
    done_before: list[PlannedRun]
    in_queue_before: list[PlannedRun]


def submit_to_slurm(plan: Plan, cluster: str, profile: Profile, *, pack: int, told: Told = lambda *_: None) -> Queued:
    """Put what of the plan is neither done nor in the queue into Slurm's queue, and return.

    Two of these at once take turns, so that no run is in the queue twice. Published weights are fetched here, as the
    jobs may have no internet; `told` hears how that goes on.

    Raises:
        UserError: Slurm cannot be had or refuses, weights cannot be had, or the folders cannot be written.
    """
    with _one_at_a_time(plan):
        waiting = in_queue(plan.folder)
        done = [run for run in plan.runs if state_of(plan, run) == "done"]
        held = [run for run in plan.runs if run.name in waiting]
        settled = {run.name for run in (*done, *held)}
        others = [run for run in plan.runs if run.name not in settled]
        if others:
            check_profile(_tasks(plan, others, pack), plan.folder / SLURM_FOLDER, cluster, profile)
            fetch_weights(others, told)
        tasks = _tasks(plan, [run for run in others if _prepared(plan, run)], pack)
        submitted = submit_arrays(tasks, plan.folder / SLURM_FOLDER, cluster, profile) if tasks else []
    return Queued(submitted, done, held)


def scripts_for_slurm(plan: Plan, profile: Profile, *, pack: int) -> list[str]:
    """The sbatch scripts that `submit_to_slurm` would submit; nothing is written."""
    waiting = in_queue(plan.folder)
    todo = [run for run in plan.runs if run.name not in waiting and state_of(plan, run) != "done"]
    return sbatch_scripts(_tasks(plan, todo, pack), plan.folder / SLURM_FOLDER, profile)


def _tasks(plan: Plan, runs: list[PlannedRun], pack: int) -> list[list[RunFolder]]:
    return [[plan.folder_of(run) for run in each] for each in packed(runs, pack)]


@contextmanager
def _one_at_a_time(plan: Plan) -> Iterator[None]:
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = open(plan.folder / ".submit.lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write to {plan.folder}: {error.strerror}", do="Set save_dir in the sweep.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepared(plan: Plan, run: PlannedRun) -> bool:
    """Make the run's folder with its config and what is known of it; False if another process is at it, or was."""
    assert run.job is not None
    folder = plan.folder_of(run)
    try:
        with folder.locked():
            state = state_of(plan, run)  # again: it may have changed before the folder was ours
            if state == "done":
                return False
            if state == "stale":
                _move_aside(plan, folder)
            # Written each time: a config that was damaged on disk is whole again, an old failure forgotten.
            write_yaml(folder.path / "config.yml", run.job.to_yaml())
            write_yaml(folder.metadata, {**plan.metadata(run), "state": "submitted", "identity": run.identity})
    except FolderBusy:
        return False
    return True


def _move_aside(plan: Plan, folder: RunFolder) -> None:
    old = (folder.read_metadata() or {}).get("identity", "unknown")
    aside = plan.folder / "stale" / f"{folder.path.name}-{str(old)[:8]}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for file in folder.path.iterdir():
            if not file.name.startswith("."):  # not the lock, which is held
                shutil.move(file, aside / file.name)
    except OSError as error:
        raise UserError(f"cannot move the old result in {folder.path} to {aside}: {error.strerror}") from None
