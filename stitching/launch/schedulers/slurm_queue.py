"""Slurm's queue: the tasks that it holds, waiting or running, and cancelling them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stitching.launch.schedulers import TaskState
from stitching.launch.schedulers.slurm_commands import ask_slurm, check_controller

__all__ = ["cancel_tasks", "held_jobs", "held_tasks"]

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


def held_tasks() -> dict[str, TaskState]:
    """Every task of this user's that Slurm holds, by id: `123_4`, or `123` without an array.

    Raises:
        UserError: Slurm cannot be asked.
    """
    check_controller()
    tasks = {}
    for line in ask_slurm(["squeue", "--me", "-h", "-r", "-o", "%F|%K|%T|%r"]).splitlines():
        job, index, state, reason = line.strip().split("|", 3)
        tasks[job if index == "N/A" else f"{job}_{index}"] = _task_state(state, "" if reason == "None" else reason)
    return tasks


def _task_state(state: str, reason: str) -> TaskState:
    if state not in _WAITING:
        return TaskState(is_waiting=False, words=state.lower())
    return TaskState(is_waiting=True, words=_REASONS.get(reason.partition(",")[0].strip("()"), reason))


def held_jobs() -> dict[str, str]:
    """The ids of this user's jobs that Slurm holds, by the jobs' names. Raises `UserError` if it cannot be asked."""
    lines = ask_slurm(["squeue", "--me", "-h", "-o", "%F|%j"]).splitlines()
    return {name: re.split("[_+]", job)[0] for job, _, name in (line.partition("|") for line in lines)}


def cancel_tasks(ids: Sequence[str]) -> None:
    """Cancel tasks. Raises `UserError` if Slurm cannot be asked."""
    for start in range(0, len(ids), 500):  # a command line has an end
        ask_slurm(["scancel", *ids[start : start + 500]])
