"""Cancelling the queued and running tasks of a sweep; only its folder and records are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from stitching.config.errors import UserError, unknown_name
from stitching.launch.schedulers import find_scheduler
from stitching.launch.submitted import queued_runs
from stitching.runs.folder import RunFolder

__all__ = ["Cancelled", "cancel"]


@dataclass(frozen=True)
class Cancelled:
    """What was cancelled."""

    runs: list[str]
    tasks: int
    along: list[str]  # of these runs, those that were not named, but share a task with a named one
    running_here: list[str]  # runs that a process outside of any queue trains: not cancelled


def cancel(folder: Path, only: Sequence[str] = ()) -> Cancelled:
    """Cancel the queued and running tasks of a sweep. Runs save a checkpoint and end; submitted again, they resume.

    Args:
        folder: of the sweep.
        only: names of runs, or patterns of names; empty: all. A task is cancelled as a whole, its whole pack with it.

    Raises:
        UserError: a scheduler cannot be asked, or `only` names a run that the folder does not have.
    """
    names = sorted(path.parent.name for path in folder.glob("*/config.yml"))
    chosen = _matching(names, only)
    held, no_answer = queued_runs(folder)
    if no_answer:
        raise UserError(next(iter(no_answer.values())))
    tasks = {(task.scheduler, task.id): task for name, task in held.items() if name in chosen}
    for scheduler_name in dict.fromkeys(name for name, _ in tasks):
        scheduler = find_scheduler(scheduler_name, folder)
        assert scheduler is not None  # it has just been asked
        scheduler.cancel([id for name, id in tasks if name == scheduler_name])
    runs = [name for name, task in held.items() if (task.scheduler, task.id) in tasks]
    return Cancelled(
        runs=runs,
        tasks=len(tasks),
        along=[name for name in runs if name not in chosen],
        running_here=[name for name in names if name in chosen and name not in held and _is_busy(folder / name)],
    )


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    if not patterns:
        return set(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            raise unknown_name("run", pattern, names, path=("--only",))
        chosen |= matches
    return chosen


def _is_busy(run: Path) -> bool:
    return RunFolder.found_in(run).is_busy()
