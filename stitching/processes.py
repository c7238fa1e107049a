"""Which of a job's processes this one is and what it was given, as torchrun or Slurm say it in the environment."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ProcessRank", "cpus_of_process", "first_host", "gpus_of_job", "process_rank"]


@dataclass(frozen=True)
class ProcessRank:
    """One process of a job: number `rank` of `size`, and number `local_rank` of those on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = ""  # torchrun or slurm, where there are several


def process_rank(env: Mapping[str, str] = os.environ) -> ProcessRank:
    """This process's rank; that of one alone, if neither torchrun nor `srun` started several.

    What counts for Slurm is the step, not the job: in a batch script, and in a shell by `srun --pty`, Slurm sets
    SLURM_NTASKS too, and there one process is alone. (submitit's environment goes by the job, so it does not serve.)
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        rank = ProcessRank(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)), "torchrun")
    elif "SLURM_PROCID" in env and "SLURM_STEP_NODELIST" in env and "SLURM_PTY_PORT" not in env:
        size = int(env.get("SLURM_STEP_NUM_TASKS", 1))
        rank = ProcessRank(int(env["SLURM_PROCID"]), size, int(env.get("SLURM_LOCALID", 0)), "slurm")
    else:
        return ProcessRank()
    return rank if rank.size > 1 else ProcessRank()


def first_host(nodes: str) -> str:
    """The first of the machines in a list as Slurm writes it: `gpu03` of `gpu[03-05,9],fat1`.

    Raises:
        OSError: Slurm's `scontrol`, which knows how to read such lists, cannot be asked.
    """
    if "[" not in nodes:
        return nodes.split(",")[0]
    try:
        answer = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise OSError("scontrol does not answer") from None
    if not answer.stdout.strip():
        raise OSError(f"scontrol cannot read the list of machines {nodes}: {answer.stderr.strip()}")
    return answer.stdout.split()[0]


def gpus_of_job(env: Mapping[str, str] = os.environ) -> int:
    """How many GPUs this process's job was given on this machine; 0 if nobody says so.

    STITCHING_GPUS is from the batch scripts of sweeps, the others are from Slurm.
    """
    for name in ("STITCHING_GPUS", "SLURM_GPUS_ON_NODE"):
        if env.get(name, "").isdecimal():
            return int(env[name])
    return len([gpu for gpu in env.get("SLURM_JOB_GPUS", "").split(",") if gpu])


def cpus_of_process(env: Mapping[str, str] = os.environ) -> int:
    """How many CPUs this process may use: those that the system and the launcher leave to it alone.

    STITCHING_CPUS is the share that a process has of those that `--cluster local` starts side by side.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("SLURM_CPUS_PER_TASK", "STITCHING_CPUS"):
        if env.get(name, "").isdecimal():
            cpus = min(cpus, int(env[name]))
    neighbours = 1
    launcher = process_rank(env).launcher
    if launcher == "torchrun":
        neighbours = int(env.get("LOCAL_WORLD_SIZE", 1))
    elif launcher == "slurm" and "SLURM_CPUS_PER_TASK" not in env:
        tasks = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
        neighbours = int(tasks[0]) if tasks else 1
    return max(1, cpus // neighbours)
