"""How the runs of a sweep stand: from their folders, and from one question to Slurm for those that are not done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.launch.endings import Ending, ending_of_log, ending_of_process, read_end
from stitching.launch.records import Submitted
from stitching.launch.schedulers.slurm import submitted_tasks
from stitching.launch.schedulers.slurm_accounting import Ended, ended_jobs
from stitching.launch.schedulers.slurm_queue import JobState, job_states
from stitching.progress import duration
from stitching.runs.causes import CAUSES, KILLED
from stitching.runs.code import code_digest
from stitching.runs.state import ExpectedRun, state_on_disk
from stitching.runs.step_log import ACCURACY, read_steps

__all__ = [
    "SLURM_FOLDER", "STATES", "RunStatus", "failed_nodes", "in_queue", "newest_tasks", "other_code",
    "status_of_all", "summary", "sweep_status",
]  # fmt: skip

SLURM_FOLDER = "slurm"  # within a sweep's folder: what was submitted, and its logs
STATES = ("done", "running", "pending", "stopped", "failed", "stale", "missing", "unknown")

_WAITING = ("PENDING", "REQUEUED")  # states of a task that Slurm has not started

# What Slurm's words mean for a user; the reasons are those that squeue gives most.
_REASONS = {
    "Resources": "waits for free nodes",
    "Priority": "others come first",
    "JobArrayTaskLimit": "array_parallelism is reached",
    "QOSMaxJobsPerUserLimit": "your limit of jobs is reached",
    "AssocGrpGRES": "your account's limit of GPUs is reached",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "asks for more minutes than the partition allows",
    "ReqNodeNotAvail": "the nodes that fit are not available",
    "BeginTime": "was put back, and begins soon",
    "NodeDown": "its node is down",
}
_ENDS = {
    "TIMEOUT": ("time limit", "time limit"),
    "OUT_OF_MEMORY": ("out of memory", "out of memory (asks for more with memory_gb)"),
    "NODE_FAIL": ("node failure", "node failure"),
    "CANCELLED": ("cancelled", "cancelled"),
    "PREEMPTED": ("preempted", "preempted"),
    "BOOT_FAIL": ("node failure", "the node did not start"),
    "DEADLINE": ("time limit", "its deadline passed"),
}


@dataclass(frozen=True)
class RunStatus:
    """One run: its state (one of `STATES`), and what there is to say of it."""

    name: str
    state: str
    words: str = ""  # of a done one: blank, or which check has failed
    cause: str | None = None  # of a failed or stopped run, one of `CAUSES`
    epoch: int | None = None
    accuracy: float | None = None  # of the newest test, 0 to 1
    seconds_left: float | None = None  # of a running one, if it goes on as it did
    job: str | None = None  # in Slurm
    code: str | None = None  # the digest of the code that trained it or, while it waits, that will
    commit: str | None = None  # that this code was checked out at, where it is known
    other_code: bool = False  # not the code of this checkout
    outdated: bool = False  # in the queue or in training with another config than the plan's

    def as_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def sweep_status(folder: Path, runs: Sequence[ExpectedRun]) -> list[RunStatus]:
    """How runs in a sweep's folder stand."""
    return status_of_all([(folder, runs)])


def status_of_all(sweeps: Sequence[tuple[Path, Sequence[ExpectedRun]]]) -> list[RunStatus]:
    """How the runs of several sweeps stand, each with its folder; Slurm is asked once for all of them."""
    found = []  # of each run: what is on disk, and the task that it was last submitted with
    for folder, runs in sweeps:
        newest = newest_tasks(folder)
        found += [(run, *state_on_disk(run), newest.get(run.name)) for run in runs]
    open_ones = [task for _, state, _, task in found if task and state != "done"]
    alive, no_answer = _ask_slurm(open_ones)
    ended = ended_jobs([task.id for task in open_ones if alive is not None and task.id not in alive])
    return [
        _with_code(_status(run, state, metadata, task, alive, ended, no_answer), metadata, task)
        for run, state, metadata, task in found
    ]


def newest_tasks(folder: Path) -> dict[str, Submitted]:
    """The task that each run of a sweep's folder was last submitted with, by the run's name."""
    return {name: task for task in submitted_tasks(folder / SLURM_FOLDER) for name in task.runs}


def in_queue(folder: Path) -> dict[str, Submitted]:
    """The runs of a sweep's folder that wait in Slurm's queue or run there, by name."""
    newest = newest_tasks(folder)
    if not newest:
        return {}
    alive = job_states()
    return {name: task for name, task in newest.items() if task.id in alive and not task.left_behind}


def failed_nodes(folder: Path) -> list[str]:
    """The nodes that failed under tasks of a sweep's folder, as far as accounting knows."""
    ended = ended_jobs([task.id for task in submitted_tasks(folder / SLURM_FOLDER)])
    return sorted({node for end in ended.values() for node in end.failed_nodes})


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


def _with_code(status: RunStatus, metadata: dict[str, Any], task: Submitted | None) -> RunStatus:
    made_by = metadata.get("code") or {}
    code, commit = made_by.get("digest"), made_by.get("commit")
    if status.state == "pending" and task and task.code != code:
        code, commit = task.code, None
    return replace(status, code=code, commit=commit, other_code=code not in (None, code_digest()))


def _ask_slurm(tasks: list[Submitted]) -> tuple[dict[str, JobState] | None, str]:
    """What Slurm holds, None if it cannot be asked, with the reason; it is not asked for nothing."""
    if not tasks:
        return {}, ""
    try:
        return job_states(), ""
    except UserError as error:
        return None, error.problem


def _status(
    run: ExpectedRun,
    state: str,
    metadata: dict[str, Any],
    task: Submitted | None,
    alive: dict[str, JobState] | None,
    ended: dict[str, Ended],
    no_answer: str,
) -> RunStatus:
    found = RunStatus(run.name, state, job=task.id if task else None)
    held = (alive or {}).get(task.id) if task and not task.left_behind else None
    if state == "done":
        final = metadata.get("final") or {}
        accuracy = next((value for key, value in final.items() if key.endswith("Test Accuracy")), None)
        words = _failed_check(metadata.get("control"), final)
        return replace(found, words=words, epoch=metadata.get("epoch"), accuracy=accuracy, job=None)
    if state == "missing" and not metadata:
        return replace(found, words="never submitted")
    if state == "submitted" and task and task.left_behind and not run.folder.is_busy():
        words = f"its job was submitted when this folder was {task.left_behind}, and cannot find it; submit it again"
        return replace(found, state="missing", words=words)
    if state == "submitted" and not task and not run.folder.is_busy():
        return replace(found, state="missing", words="its config is written; nothing has started it yet")
    found = _with_newest_epoch(found, run, metadata)
    if task and alive is None and state != "failed":
        return replace(found, state="unknown", words=f"it was {state}; {no_answer}", seconds_left=None)
    if state == "stale":
        return _stale(found, run, held, metadata)
    if held and held.state in _WAITING:
        words = _REASONS.get(held.reason.partition(",")[0].strip("()"), held.reason)
        return replace(found, state="pending", words=words, seconds_left=None)
    if state == "failed":
        failure = str(metadata.get("failure", ""))
        return replace(found, words=failure, cause=_cause(metadata, failure), seconds_left=None)
    if held:
        left = f"about {duration(found.seconds_left)} left" if found.seconds_left is not None else ""
        return replace(found, state="running", words=left or held.state.lower())
    if run.folder.is_busy():
        left = f", about {duration(found.seconds_left)} left" if found.seconds_left is not None else ""
        return replace(found, state="running", words=f"by a process on this machine{left}", job=None)
    found = replace(found, seconds_left=None)
    if task and task.id in ended:
        ending = _ending_in_slurm(task, ended[task.id])
        ended_well = state == "stopped" or ending.cause == "cancelled"  # somebody wanted it
        ended_as = "stopped" if ended_well else "failed"
        return replace(found, state=ended_as, words=ending.reason, cause=ending.cause)
    if state == "stopped":
        return replace(found, words="`submit` resumes it", cause="cancelled")
    if state == "missing":
        return replace(found, words="its result is gone or damaged")
    unknown = Ending(KILLED, f"it was {state}, and no process is at it any more")
    ending = (ending_of_log(read_end(task.log)) if task else None) or unknown
    return replace(found, state="failed", words=ending.reason, cause=ending.cause)


def _ending_in_slurm(task: Submitted, ended: Ended) -> Ending:
    """How a task ended that accounting knows of."""
    if ended.state in _ENDS:
        return Ending(*_ENDS[ended.state])
    if ended.state == "FAILED":
        return ending_of_process(ended.code, read_end(task.log))
    return Ending("error", f"Slurm says {ended.state}")


def _stale(found: RunStatus, run: ExpectedRun, held: JobState | None, metadata: dict[str, Any]) -> RunStatus:
    """A run of another config than the plan's: left from earlier, or still in the queue or in training."""
    waits = held is not None and held.state in _WAITING
    trains = metadata.get("state") not in ("done", "failed") and (held is not None or run.folder.is_busy())
    if waits or trains:
        words = "with another config than the sweep has now: cancel it, then submit again"
        return replace(found, state="pending" if waits else "running", words=words, outdated=True)
    words = "made with another config; `plan --explain` says what differs"
    return replace(found, words=words, seconds_left=None)


def _failed_check(control: str | None, final: dict[str, float]) -> str:
    """What is wrong with a self-stitch: cut and joined by an identity, it is the network that it was."""
    alike = final.get("Overall/Test Agreement", 1.0)
    if control != "self" or alike == 1.0:
        return ""
    return f"CHECK FAILED: it should be the network that it was cut from, and predicts the same for {alike:.4%} only"


def _with_newest_epoch(found: RunStatus, run: ExpectedRun, metadata: dict[str, Any]) -> RunStatus:
    """`found` with the newest epoch that is over, the test accuracy after it, and how long the rest will take."""
    try:
        frame = read_steps(run.folder)
        saved, began = run.folder.steps.stat().st_mtime, run.folder.metadata.stat().st_mtime
    except (UserError, OSError):
        return found
    if frame.empty:
        return found
    tested = list(frame[ACCURACY].dropna()) if ACCURACY in frame else []
    step, first, total = (int(x) for x in (frame["Step"].iloc[-1], metadata.get("first_step", 0), _total(metadata)))
    left = None
    if total and step > first and saved > began:
        # The metadata was written when this start of the run began, the result at the end of its newest epoch.
        left = max(0.0, (saved - began) / (step - first) * (total - step) - (time.time() - saved))
    return replace(
        found,
        epoch=int(frame["Epoch"].iloc[-1]),
        accuracy=float(tested[-1]) if tested else None,
        seconds_left=left,
    )


def _total(metadata: dict[str, Any]) -> int:
    return int(metadata.get("total_steps") or 0)


def _cause(metadata: dict[str, Any], failure: str) -> str:
    """The cause on record; that of a run that has none, as older ones, is read off the words."""
    if metadata.get("cause") in CAUSES:
        return str(metadata["cause"])
    if "OutOfMemory" in failure or "not enough memory" in failure:
        return "out of memory"
    if failure.startswith("its time was over"):
        return "time limit"
    return "killed" if failure.startswith("killed by") else "error"
