"""What tests on a real Slurm share: where runs are, how they stand, and waiting for Slurm."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from stitching.sweeps.slurm import job_states, submitted_tasks
from stitching.sweeps.status import SLURM_FOLDER
from stitching.training.results import TIMING_COLUMNS, read_result


def folder_of(sweep: Path) -> Path:
    return sweep.parent / "experiments" / "tests" / sweep.stem


def status(cli, sweep: Path) -> dict[str, dict]:
    outcome = cli("status", sweep, "--json")
    assert outcome.code == 0, outcome.err
    return {run["name"]: run for run in json.loads(outcome.out)}


def wait(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, subprocess.run(["squeue", "-a"], capture_output=True, text=True).stdout
        time.sleep(0.3)


def wait_until_over(sweep: Path, seconds: float = 120) -> None:
    """Until none of the sweep's tasks is in the queue any more."""
    ids = {task.id for task in submitted_tasks(folder_of(sweep) / SLURM_FOLDER)}
    wait(lambda: not ids & job_states().keys(), seconds)


def frames(sweep: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for path in sorted(folder_of(sweep).glob("*/result.pkl")):
        frame = read_result(path)
        found[path.parent.name] = frame.drop(columns=[name for name in TIMING_COLUMNS if name in frame])
    return found


def assert_same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert len(left) == 4
    names = [{name.partition("-gap-")[2]: frame for name, frame in each.items()} for each in (left, right)]
    assert names[0].keys() == names[1].keys()
    for name, frame in names[0].items():
        pd.testing.assert_frame_equal(frame, names[1][name], check_exact=True)


def submit_and_wait_for_checkpoints(cli, sweep: Path) -> None:
    """Until all four runs, in one task, are past their first epoch."""
    assert cli("submit", sweep, "--cluster", "test", "--pack", "4").code == 0
    wait(lambda: len(list(folder_of(sweep).glob("*/checkpoint.pt"))) == 4)


def assert_undisturbed(cli, path: Path, undisturbed: Path) -> None:
    """All runs are done, and are what the sweep `undisturbed`, run here, leaves."""
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert cli("submit", undisturbed, "--cluster", "local").code == 0
    assert_same(frames(path), frames(undisturbed))


def logs(sweep: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder_of(sweep).glob("*/log.txt"))]
