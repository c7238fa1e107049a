"""What tests on a real Slurm share: where runs are, how they stand, and waiting for Slurm."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from small_sweeps import submit

from stitching.config.yaml import load_yaml
from stitching.launch.records import RECORDS
from stitching.launch.schedulers.slurm_queue import held_tasks
from stitching.launch.submitted import submitted_tasks
from stitching.runs.step_log import TIMING_COLUMNS, read_result
from stitching.sweeps.studies import make_plan


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
    ids = {task.id for task in submitted_tasks(folder_of(sweep) / RECORDS)}
    wait(lambda: not ids & held_tasks().keys(), seconds)


def frames(sweep: Path) -> dict[str, pd.DataFrame]:
    """What the sweep's runs left, by their names without the sweep's."""
    found = {}
    for path in sorted(folder_of(sweep).glob("*/result.pkl")):
        frame = read_result(path)
        name = path.parent.name.replace(f"-{sweep.stem}-", "-", 1)
        found[name] = frame.drop(columns=[column for column in TIMING_COLUMNS if column in frame])
    return found


def assert_same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert len(left) == 5
    assert left.keys() == right.keys()
    for name, frame in left.items():
        pd.testing.assert_frame_equal(frame, right[name], check_exact=True)


def finish_whole_networks_here(sweep: Path) -> None:
    """Have only the stitched runs, which have more to lose than a test, left for Slurm."""
    plan = make_plan(load_yaml(sweep))
    whole = [run.name for run in plan.runs if run.stitch.control == "base"]
    assert [run.name for run in submit(plan, pack=1, among=whole).ended] == whole


def trained(runs: dict[str, dict]) -> dict[str, dict]:
    """Of the runs that `status` gives, those that are trained: all but the whole networks."""
    found = {name: run for name, run in runs.items() if name.startswith("train-")}
    assert len(found) == 4
    return found


def submit_and_wait_for_checkpoints(cli, sweep: Path) -> None:
    """Until the four stitched runs, in one task, are past their first epoch; the whole network is tested before."""
    finish_whole_networks_here(sweep)
    outcome = cli("submit", sweep, "--cluster", "test", "--pack", "4")
    assert outcome.code == 0, outcome.err
    assert "4 runs submitted in 1 tasks" in outcome.out
    wait(lambda: len(list(folder_of(sweep).glob("*/checkpoint.pt"))) == 4)


def assert_undisturbed(cli, path: Path, undisturbed: dict[str, pd.DataFrame]) -> None:
    """All runs are done, and are what the same sweep, run here, leaves."""
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert_same(frames(path), undisturbed)


def logs(sweep: Path) -> list[str]:
    """Of the runs that are trained."""
    return [path.read_text() for path in sorted(folder_of(sweep).glob("train-*/log.txt"))]


def assert_each_ran_once(sweep: Path) -> None:
    assert [log.count("epoch 1,") for log in logs(sweep)] == [1] * 4
    (whole,) = folder_of(sweep).glob("base-*/log.txt")
    assert whole.read_text().count("before training,") == 1
