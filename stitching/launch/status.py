"""The state of every run: from its folder and, for unfinished runs, from one question to their scheduler."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.launch.endings import Ending, ending_of_log, read_end
from stitching.launch.records import Submitted
from stitching.launch.schedulers import TaskEnd, TaskState
from stitching.launch.submitted import Held, ask_schedulers, ends_of, newest_tasks
from stitching.progress import duration
from stitching.runs.causes import CAUSES, KILLED
from stitching.runs.code import code_digest
from stitching.runs.self_stitch import failed_self_stitch
from stitching.runs.state import ExpectedRun, state_on_disk

__all__ = ["STATES", "RunStatus", "other_code", "status_of_all", "summary", "sweep_status"]

STATES = ("done", "running", "pending", "stopped", "failed", "stale", "missing", "unknown")


@dataclass(frozen=True)
class RunStatus:
    """One run: its state (one of `STATES`), and details."""

    name: str
    state: str
    words: str = ""  # the reason of the state; of a finished run blank, or the check that failed
    cause: str | None = None  # of a failed or stopped run, one of `CAUSES`
    epoch: int | None = None
    accuracy: float | None = None  # of the newest test, 0 to 1
    seconds_left: float | None = None  # of a running one, at its pace so far
    job: str | None = None  # its task in the scheduler
    code: str | None = None  # the digest of the code that trained it or, while it waits, that will
    commit: str | None = None  # that this code was checked out at, where it is known
    other_code: bool = False  # not the code of this checkout
    outdated: bool = False  # in the queue or in training with another config than the plan's

    def as_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def sweep_status(folder: Path, runs: Sequence[ExpectedRun]) -> list[RunStatus]:
    """The state of runs in a sweep's folder."""
    return status_of_all([(folder, runs)])


def status_of_all(
    sweeps: Sequence[tuple[Path, Sequence[ExpectedRun]]],
    *,
    read: Callable[[ExpectedRun], tuple[str, dict[str, Any]]] = state_on_disk,
) -> list[RunStatus]:
    """The state of the runs of several sweeps, each with its folder; every scheduler is asked once for all of them.

    Args:
        sweeps: folders, each with what is expected in it.
        read: gives a run's state on disk and its metadata, if these have been read already.
    """
    on_disk: list[_OnDisk] = []
    for folder, runs in sweeps:
        newest = newest_tasks(folder)
        on_disk += [_OnDisk(run, *read(run), newest.get(run.name)) for run in runs]
    if not on_disk:
        return []
    tasks = [run.task for run in on_disk if run.task and run.state != "done"]
    held = ask_schedulers(tasks, sweeps[0][0])
    over = [task for task in tasks if task.scheduler not in held.no_answer and not held.state_of(task)]
    ends = ends_of(over, sweeps[0][0])
    return [_with_code(_status(run, _Answer.about(run.task, held, ends)), run) for run in on_disk]


@dataclass(frozen=True)
class _OnDisk:
    """What a run's folder says of it, and the task that it was last submitted with."""

    run: ExpectedRun
    state: str
    metadata: dict[str, Any]
    task: Submitted | None


@dataclass(frozen=True)
class _Answer:
    """What a scheduler says of a run's task."""

    held: TaskState | None = None
    end: TaskEnd | None = None
    no_answer: str | None = None  # why it cannot be asked

    @classmethod
    def about(cls, task: Submitted | None, held: Held, ends: Mapping[tuple[str, str], TaskEnd]) -> _Answer:
        if task is None:
            return cls()
        state = None if task.left_behind else held.state_of(task)
        return cls(state, ends.get((task.scheduler, task.id)), held.no_answer.get(task.scheduler))


def summary(runs: Sequence[RunStatus]) -> str:
    """`12 done, 3 running, 1 failed`."""
    counts = Counter(run.state for run in runs)
    failed = sum(run.state == "done" and bool(run.words) for run in runs)
    shouted = [f"{failed} CHECKS FAILED: do not trust these results"] if failed else []
    return ", ".join([*(f"{counts[state]} {state}" for state in STATES if counts[state]), *shouted])


def other_code(runs: Sequence[RunStatus]) -> list[str]:
    """`12 runs were made by other code (a1b2c3d4e5f6, commit 0123456)`: a line for each code but the present one."""
    counts = Counter((run.state == "pending", run.code, run.commit) for run in runs if run.other_code)
    lines = []
    for (waiting, code, commit), count in counts.items():
        words = "wait to be run by" if waiting else "were made by"
        lines.append(f"{count} runs {words} other code ({code}{f', commit {commit[:10]}' if commit else ''})")
    return lines


def _with_code(status: RunStatus, on_disk: _OnDisk) -> RunStatus:
    made_by = on_disk.metadata.get("code") or {}
    code, commit = made_by.get("digest"), made_by.get("commit")
    if status.state == "pending" and on_disk.task and on_disk.task.code != code:
        code, commit = on_disk.task.code, None
    return replace(status, code=code, commit=commit, other_code=code not in (None, code_digest()))


def _status(on_disk: _OnDisk, answer: _Answer) -> RunStatus:
    run, state, metadata, task = on_disk.run, on_disk.state, on_disk.metadata, on_disk.task
    status = RunStatus(run.name, state, job=task.id if task else None)
    if state == "done":
        final = metadata.get("final") or {}
        accuracy = next((value for key, value in final.items() if key.endswith("Test Accuracy")), None)
        failed = failed_self_stitch(metadata.get("control"), final)
        words = f"CHECK FAILED: {failed}" if failed else ""
        return replace(status, words=words, epoch=metadata.get("epoch"), accuracy=accuracy, job=None)
    if words := _never_started(on_disk):
        return replace(status, state="missing", words=words)
    status = _with_newest_epoch(status, run, metadata)
    if task and answer.no_answer is not None and state != "failed":
        return replace(status, state="unknown", words=f"it was {state}; {answer.no_answer}", seconds_left=None)
    if state == "stale":
        return _stale(status, run, answer.held, metadata)
    if answer.held and answer.held.is_waiting:
        return replace(status, state="pending", words=answer.held.words, seconds_left=None)
    if state == "failed":
        failure = str(metadata.get("failure", ""))
        return replace(status, words=failure, cause=_cause(metadata, failure), seconds_left=None)
    left = f"about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
    if answer.held:
        return replace(status, state="running", words=left or answer.held.words)
    if run.folder.is_busy():
        words = f"by a process on this machine{left and f', {left}'}"
        return replace(status, state="running", words=words, job=None)
    return _over(replace(status, seconds_left=None), on_disk, answer.end)


def _never_started(on_disk: _OnDisk) -> str:
    """Why nothing has started a run, in words; nothing if something has, or will."""
    if on_disk.state == "missing" and not on_disk.metadata:
        return "never submitted"
    if on_disk.state != "submitted" or (on_disk.task and not on_disk.task.left_behind) or on_disk.run.folder.is_busy():
        return ""
    if on_disk.task:
        before = on_disk.task.left_behind
        return f"its job was submitted when this folder was {before}, and cannot find it; submit it again"
    return "its config is written; nothing has started it yet"


def _over(status: RunStatus, on_disk: _OnDisk, end: TaskEnd | None) -> RunStatus:
    """A run that is not done, and that no process or queue has."""
    state, task = on_disk.state, on_disk.task
    if end:
        on_purpose = state == "stopped" or end.cause == "cancelled"
        return replace(status, state="stopped" if on_purpose else "failed", words=end.reason, cause=end.cause)
    if state == "stopped":
        return replace(status, words="`submit` resumes it", cause="cancelled")
    if state == "missing":
        return replace(status, words="its result is gone or damaged")
    unknown = Ending(KILLED, f"it was {state}, and its process is gone")
    ending = (ending_of_log(read_end(task.log)) if task else None) or unknown
    return replace(status, state="failed", words=ending.reason, cause=ending.cause)


def _stale(status: RunStatus, run: ExpectedRun, held: TaskState | None, metadata: dict[str, Any]) -> RunStatus:
    """A run of another config than the plan's: left from earlier, or still in the queue or in training."""
    is_waiting = held is not None and held.is_waiting
    is_training = metadata.get("state") not in ("done", "failed") and (held is not None or run.folder.is_busy())
    if is_waiting or is_training:
        words = "with another config than the sweep has now: cancel it, then submit again"
        return replace(status, state="pending" if is_waiting else "running", words=words, outdated=True)
    words = "made with another config; `plan --explain` says what differs"
    return replace(status, words=words, seconds_left=None)


def _with_newest_epoch(status: RunStatus, run: ExpectedRun, metadata: dict[str, Any]) -> RunStatus:
    """`status` with the newest epoch that is over, the test accuracy after it, and how long the rest will take."""
    from stitching.runs.step_log import ACCURACY, read_steps  # pandas: runs that are done need none

    try:
        frame = read_steps(run.folder)
        saved, began = run.folder.steps.stat().st_mtime, run.folder.metadata.stat().st_mtime
    except (UserError, OSError):
        return status
    if frame.empty:
        return status
    tested = list(frame[ACCURACY].dropna()) if ACCURACY in frame else []
    step, first, total = (int(x) for x in (frame["Step"].iloc[-1], metadata.get("first_step", 0), _total(metadata)))
    left = None
    if total and step > first and saved > began:
        # The metadata was written when this start of the run began, the result at the end of its newest epoch.
        left = max(0.0, (saved - began) / (step - first) * (total - step) - (time.time() - saved))
    return replace(
        status,
        epoch=int(frame["Epoch"].iloc[-1]),
        accuracy=float(tested[-1]) if tested else None,
        seconds_left=left,
    )


def _total(metadata: dict[str, Any]) -> int:
    return int(metadata.get("total_steps") or 0)


def _cause(metadata: dict[str, Any], failure: str) -> str:
    """The recorded cause; for older runs without one, by the words of the failure."""
    if metadata.get("cause") in CAUSES:
        return str(metadata["cause"])
    if "OutOfMemory" in failure or "not enough memory" in failure:
        return "out of memory"
    if failure.startswith("its time was over"):
        return "time limit"
    return "killed" if failure.startswith("killed by") else "error"
