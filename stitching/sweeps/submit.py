"""Submitting a plan: what is already there, the run folders, and handing the tasks to a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stitching.config.errors import UserError, unknown_name
from stitching.sweeps.local import run_locally
from stitching.sweeps.plan import Plan, PlannedRun
from stitching.sweeps.tasks import packed
from stitching.training.files import FolderBusy, RunFolder, write_yaml
from stitching.training.results import read_result

__all__ = ["CLUSTERS", "Cluster", "Submission", "state_of", "submit"]


class Cluster(Protocol):
    """Where tasks run: takes lists of run folders, gives the names of the runs that failed and why."""

    def __call__(self, tasks: list[list[Path]], *, jobs: int, told: Callable[[int, int, str], None]) -> dict[str, str]:
        """Run every task, at most `jobs` at once."""


CLUSTERS: dict[str, Cluster] = {"local": run_locally}


@dataclass(frozen=True)
class Submission:
    """What became of a plan."""

    started: list[PlannedRun]
    done_before: list[PlannedRun]
    failures: dict[str, str]


def state_of(plan: Plan, run: PlannedRun) -> str:
    """What the run's folder says: `done`, `stale` (done with another config), `failed`, `stopped`, ... or `missing`.

    Done is a whole result of this very config, not what a scheduler remembers.
    """
    folder = RunFolder(plan.folder / run.name)
    metadata = folder.read_metadata()
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


def submit(
    plan: Plan, cluster: str, *, pack: int, jobs: int, told: Callable[[int, int, str], None] = lambda *_: None
) -> Submission:
    """Run what of the plan is not done yet.

    Runs done with another config are moved to the folder `stale` beside them and run again: an old result never
    stands for a new config, and none is lost.

    Raises:
        UserError: there is no such cluster, or the folders cannot be written.
    """
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS)
    states = {run.name: state_of(plan, run) for run in plan.runs}
    todo = [
        run
        for run in plan.runs
        if states[run.name] != "done" and _prepared(plan, run, stale=states[run.name] == "stale")
    ]
    tasks = [[plan.folder / run.name for run in runs] for runs in packed(todo, pack)]
    failures = CLUSTERS[cluster](tasks, jobs=jobs, told=told) if tasks else {}
    return Submission(todo, [run for run in plan.runs if states[run.name] == "done"], failures)


def _prepared(plan: Plan, run: PlannedRun, *, stale: bool) -> bool:
    """Make the run's folder with its config and what is known of it; False if another process is training there."""
    assert run.job is not None
    folder = RunFolder(plan.folder / run.name)
    try:
        with folder.locked():
            if stale:
                _move_aside(plan, folder)
            if folder.read_metadata() is None:
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
