"""How the runs of a sweep stand: from their folders, and from one question to Slurm for those that are not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.sweeps.slurm import JobState, Submitted, ended_states, job_states, submitted_tasks
from stitching.training.files import RunFolder
from stitching.training.results import read_result

__all__ = ["SLURM_FOLDER", "RunStatus", "in_queue", "newest_tasks", "run_names", "summary", "sweep_status"]

SLURM_FOLDER = "slurm"  # within a sweep's folder: what was submitted, and its logs

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
}
_ENDS = {
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "out of memory (asks for more with memory_gb)",
    "NODE_FAIL": "node failure",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "FAILED": "its process ended with an error",
    "BOOT_FAIL": "the node did not start",
    "DEADLINE": "its deadline passed",
}


@dataclass(frozen=True)
class RunStatus:
    """One run: `done`, `running`, `pending`, `failed`, `stopped` or `missing`, and what there is to say of it."""

    name: str
    state: str
    words: str = ""
    epoch: int | None = None
    accuracy: float | None = None  # of the newest test, 0 to 1
    job: str | None = None  # in Slurm

    def as_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def run_names(folder: Path) -> list[str]:
    """The runs in a sweep's folder, whatever the plan says.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", do="Give a sweep's YAML file, or the folder of its runs.")
    names = sorted(path.parent.name for path in folder.glob("*/config.yml"))
    if not names:
        raise UserError(f"there are no runs in {folder}", do="`stitching submit SWEEP.yml` makes some.")
    return names


def sweep_status(folder: Path, names: Sequence[str]) -> list[RunStatus]:
    """How the runs `names` in a sweep's folder stand; those without a folder are `missing`."""
    newest = newest_tasks(folder)
    known = {name: _metadata(folder / name) for name in names}
    open_ones = {name: newest[name] for name in names if name in newest and (known[name] or {}).get("state") != "done"}
    alive, told = _asked_slurm(open_ones)
    ended = ended_states([task.id for task in open_ones.values() if alive is not None and task.id not in alive])
    return [_status(folder / name, known[name], newest.get(name), alive, ended, told) for name in names]


def newest_tasks(folder: Path) -> dict[str, Submitted]:
    """The task that each run of a sweep's folder was last submitted with, by the run's name."""
    return {name: task for task in submitted_tasks(folder / SLURM_FOLDER) for name in task.runs}


def in_queue(folder: Path) -> dict[str, Submitted]:
    """The runs of a sweep's folder that wait in Slurm's queue or run there, by name."""
    newest = newest_tasks(folder)
    if not newest:
        return {}
    alive = job_states()
    return {name: task for name, task in newest.items() if task.id in alive}


def summary(runs: Sequence[RunStatus]) -> str:
    """`12 done, 3 running, 1 failed`."""
    counts = Counter(run.state for run in runs)
    order = ("done", "running", "pending", "stopped", "failed", "missing", "unknown")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def _asked_slurm(runs: dict[str, Submitted]) -> tuple[dict[str, JobState] | None, str]:
    """What Slurm holds, None if it cannot be asked, with the reason."""
    if not runs:
        return {}, ""
    try:
        return job_states(), ""
    except UserError as error:
        return None, error.problem


def _metadata(folder: Path) -> dict[str, Any] | None:
    try:
        return RunFolder(folder).read_metadata()
    except UserError:
        return {}


def _status(
    path: Path,
    known: dict[str, Any] | None,
    task: Submitted | None,
    alive: dict[str, JobState] | None,
    ended: dict[str, str],
    told: str,
) -> RunStatus:
    job = task.id if task else None
    if known is None:
        return RunStatus(path.name, "missing", "never submitted")
    state = str(known.get("state", "missing"))
    if state == "done":
        final = known.get("final", {})
        accuracy = next((value for key, value in final.items() if key.endswith("Test Accuracy")), None)
        return RunStatus(path.name, "done", "", known.get("config", {}).get("train_config", {}).get("epochs"), accuracy)
    epoch, accuracy = _newest(path)
    if task and alive is None:
        return RunStatus(path.name, "unknown", f"it was {state}; {told}", epoch, accuracy, job)
    held = (alive or {}).get(task.id) if task else None
    if held and held.state == "PENDING":
        words = _REASONS.get(held.reason.partition(",")[0], held.reason)
        return RunStatus(path.name, "pending", words, epoch, accuracy, job)
    if state == "failed":
        return RunStatus(path.name, "failed", str(known.get("failure", "")), epoch, accuracy, job)
    if held:
        return RunStatus(path.name, "running", held.state.lower(), epoch, accuracy, job)
    if RunFolder(path).is_busy():
        return RunStatus(path.name, "running", "by a process on this machine", epoch, accuracy)
    if task and task.id in ended:
        words = _ENDS.get(ended[task.id], f"Slurm says {ended[task.id]}")
        return RunStatus(path.name, "stopped" if state == "stopped" else "failed", words, epoch, accuracy, job)
    if state == "stopped":
        return RunStatus(path.name, "stopped", "submit goes on with it", epoch, accuracy, job)
    return RunStatus(path.name, "failed", f"it was {state}, and no process is at it any more", epoch, accuracy, job)


def _newest(path: Path) -> tuple[int | None, float | None]:
    """The newest epoch that is over, and the test accuracy after it."""
    try:
        frame = read_result(path / "result.pkl")
    except UserError:
        return None, None
    tested = frame[frame["Overall/Test Accuracy"].notna()] if "Overall/Test Accuracy" in frame else frame[:0]
    accuracy = float(tested["Overall/Test Accuracy"].iloc[-1]) if len(tested) else None
    return int(frame["Epoch"].iloc[-1]), accuracy
