"""Sweeps on a real Slurm with two processes for each task."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from on_slurm import assert_each_ran_once, folder_of, frames, logs, status, wait, wait_until_over
from yaml_files import read_yaml

from stitching.launch.records import RECORDS, Submitted
from stitching.launch.submitted import submitted_tasks

pytestmark = pytest.mark.usefixtures("slurm")

# Rounding errors do not grow: AdamW would make whole steps of gradients that are zero but for them.
TRAINED = {"optimizer": "SGD", "optimizer_args": {"lr": 0.01, "momentum": 0.9}, "max_batches": 4}


@pytest.fixture
def two_processes(sweep, tmp_path):
    """As `sweep`, with a profile `two`."""
    with open(tmp_path / "sbatch" / "clusters.yml", "a") as profiles:
        profiles.write("two: {partition: gpu, gpus: 2, processes: 2, cpus: 1, memory_gb: 2, minutes: 30}\n")
    return sweep


def _assert_as_here(cli, path: Path, theirs: dict[str, pd.DataFrame]) -> None:
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    for file in folder_of(path).glob("*/metadata.yml"):
        assert read_yaml(file)["processes"] == 2
    ours = frames(path)
    assert len(ours) == 5
    assert ours.keys() == theirs.keys()
    for name, frame in ours.items():
        pd.testing.assert_frame_equal(frame, theirs[name], check_exact=False, rtol=1e-3, atol=1e-5)


def test_two_processes_leave_what_one_leaves_here(cli, two_processes, left_here, forked_on_slurm):
    path = two_processes(**TRAINED)
    outcome = cli("submit", path, "--cluster", "two", "--pack", "4")
    assert outcome.code == 0, outcome.err
    assert "5 runs submitted in 2 tasks" in outcome.out  # which may meet on the one machine that there is
    wait_until_over(path, 240)
    _assert_as_here(cli, path, left_here(**TRAINED))
    assert_each_ran_once(path)


def _task_of(path: Path, names: str) -> Submitted:
    """The one task whose runs have such names."""
    (task,) = [each for each in submitted_tasks(folder_of(path) / RECORDS) if each.runs[0].startswith(names)]
    return task


@pytest.mark.slow
def test_a_preempted_task_goes_back_to_the_queue_once(cli, two_processes, left_here):
    path = two_processes(**TRAINED | {"epochs": 40})
    assert cli("submit", path, "--cluster", "two", "--pack", "4").code == 0
    wait(lambda: len(list(folder_of(path).glob("*/checkpoint.pt"))) == 4)
    task = _task_of(path, "train-")
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name}", task.id], check=True)
    wait(lambda: any("stopped at epoch" in log for log in logs(path)))
    wait_until_over(path, 240)
    assert all(log.count("resumed at epoch") == 1 for log in logs(path))
    _assert_as_here(cli, path, left_here(**TRAINED | {"epochs": 40}))
