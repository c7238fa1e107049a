"""What a process is given, as its launcher and the system say it."""

from __future__ import annotations

import pytest

from stitching.processes import cpus_of_process, gpus_of_job

STEP = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_TASKS": "4"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "cpus"),
    [
        ({}, 32),
        ({"SLURM_CPUS_PER_TASK": "8"}, 8),
        ({"SLURM_CPUS_PER_TASK": "64"}, 32),  # more than the system lets it have
        ({"STITCHING_CPUS": "3"}, 3),
        ({"STITCHING_CPUS": "3", "SLURM_CPUS_PER_TASK": "2"}, 2),
        (TORCHRUN, 8),
        ({**TORCHRUN, "SLURM_CPUS_PER_TASK": "16"}, 4),  # one task of Slurm's, in which torchrun starts four
        ({**STEP, "SLURM_CPUS_PER_TASK": "8"}, 8),  # each has its own
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 16),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "64"}, 1),
        ({"SLURM_CPUS_PER_TASK": "many"}, 32),
    ],
)
def test_the_cpus_of_a_process(monkeypatch, environment, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(32)), raising=False)
    assert cpus_of_process(environment) == cpus


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 0),  # says which, not that one was asked for
        ({"STITCHING_GPUS": "2"}, 2),
        ({"STITCHING_GPUS": "0", "SLURM_GPUS_ON_NODE": "1"}, 0),
        ({"SLURM_GPUS_ON_NODE": "4"}, 4),
        ({"SLURM_JOB_GPUS": "0,3"}, 2),
        ({"SLURM_JOB_GPUS": ""}, 0),
    ],
)
def test_the_gpus_of_a_job(environment, gpus):
    assert gpus_of_job(environment) == gpus
