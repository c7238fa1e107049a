"""Slurm's queue: the tasks that it holds, waiting or running, and cancelling them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stitching.launch.schedulers.slurm_commands import ask_slurm, check_controller

__all__ = ["JobState", "cancel", "held_jobs", "job_states"]


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a task: PENDING, RUNNING, ..., and why it waits."""

    state: str
    reason: str = ""


def job_states() -> dict[str, JobState]:
    """Every task of this user's that Slurm holds, waiting or running, by id: `123_4`, or `123` without an array.

    Raises:
        UserError: Slurm cannot be asked.
    """
    check_controller()
    listed = ask_slurm(["squeue", "--me", "-h", "-r", "-o", "%F|%K|%T|%r"])
    states = {}
    for line in listed.splitlines():
        job, index, state, reason = line.strip().split("|", 3)
        states[job if index == "N/A" else f"{job}_{index}"] = JobState(state, "" if reason == "None" else reason)
    return states


def held_jobs() -> dict[str, str]:
    """The ids of this user's jobs that Slurm holds, by the jobs' names. Raises `UserError` if it cannot be asked."""
    return _by_name(ask_slurm(["squeue", "--me", "-h", "-o", "%F|%j"]))


def _by_name(listed: str) -> dict[str, str]:
    return {name: re.split("[_+]", job)[0] for job, _, name in (line.partition("|") for line in listed.splitlines())}


def cancel(ids: Sequence[str]) -> None:
    """Cancel tasks. Raises `UserError` if Slurm cannot be asked."""
    for start in range(0, len(ids), 500):  # a command line has an end
        ask_slurm(["scancel", *ids[start : start + 500]])
