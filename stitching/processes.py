"""Which of a job's processes this one is, as torchrun or Slurm say it in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Place", "first_host", "place_in_job"]


@dataclass(frozen=True)
class Place:
    """One process of a job: number `rank` of `size`, and number `local_rank` of those on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = ""  # torchrun or slurm, where there are several


def place_in_job(env: Mapping[str, str] = os.environ) -> Place:
    """This process's place; that of one alone, if neither torchrun nor `srun` started several.

    What counts for Slurm is the step, not the job: in a batch script, and in a shell by `srun --pty`, Slurm sets
    SLURM_NTASKS too, and there one process is alone.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        place = Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)), "torchrun")
    elif "SLURM_PROCID" in env and "SLURM_STEP_NODELIST" in env and "SLURM_PTY_PORT" not in env:
        size = int(env.get("SLURM_STEP_NUM_TASKS", 1))
        place = Place(int(env["SLURM_PROCID"]), size, int(env.get("SLURM_LOCALID", 0)), "slurm")
    else:
        return Place()
    return place if place.size > 1 else Place()


def first_host(nodes: str) -> str:
    """The first of the machines in a list as Slurm writes it: `gpu03` of `gpu[03-05,9],fat1`."""
    found = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes
