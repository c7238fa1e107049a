"""This process's rank in its job, its GPUs and its CPUs, from the environment that torchrun or Slurm set."""

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
    """This process's rank; that of a single process if neither torchrun nor `srun` started several.

    For Slurm the step counts, not the job: in a batch script, and in a shell of `srun --pty`, Slurm sets SLURM_NTASKS
    although there is a single process. (submitit's environment is that of the job.)
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
        OSError: `scontrol`, which expands such lists, cannot be run.
    """
    if "[" not in nodes:
        return nodes.split(",")[0]
    try:
        scontrol = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise OSError("scontrol does not answer") from None
    if not scontrol.stdout.strip():
        raise OSError(f"scontrol cannot read the list of machines {nodes}: {scontrol.stderr.strip()}")
    return scontrol.stdout.split()[0]


def gpus_of_job(env: Mapping[str, str] = os.environ) -> int:
    """The number of GPUs that this process's job has on this machine; 0 if the environment does not say.

    STITCHING_GPUS is from the batch scripts of sweeps, the others are from Slurm.
    """
    for name in ("STITCHING_GPUS", "SLURM_GPUS_ON_NODE"):
        if env.get(name, "").isdecimal():
            return int(env[name])
    return len([gpu for gpu in env.get("SLURM_JOB_GPUS", "").split(",") if gpu])


def cpus_of_process(env: Mapping[str, str] = os.environ) -> int:
    """How many CPUs this process may use, by the system's and the launcher's limits.

    STITCHING_CPUS is the share of each process that `--cluster local` starts.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("SLURM_CPUS_PER_TASK", "STITCHING_CPUS"):
        if env.get(name, "").isdecimal():
            cpus = min(cpus, int(env[name]))
    sharing = 1  # processes on this machine that share these CPUs
    launcher = process_rank(env).launcher
    if launcher == "torchrun":
        sharing = int(env.get("LOCAL_WORLD_SIZE", 1))
    elif launcher == "slurm" and "SLURM_CPUS_PER_TASK" not in env:
        tasks = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
        sharing = int(tasks[0]) if tasks else 1
    return max(1, cpus // sharing)
