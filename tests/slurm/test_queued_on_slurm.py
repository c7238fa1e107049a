"""What happens to a real Slurm's queue between two commands: edits of the code, killed submits, moved folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from on_slurm import assert_each_ran_once, folder_of, status, wait, wait_until_over
from yaml_files import read_yaml

from stitching.launch.records import RECORDS, read_records
from stitching.launch.schedulers.slurm_queue import held_tasks
from stitching.launch.submitted import submitted_tasks
from stitching.runs.code import PACKAGE

pytestmark = pytest.mark.usefixtures("slurm")

HELD = ("--cluster", "test", "--pack", "4", "--slurm", "sbatch.hold=true")


def release(folder: Path) -> None:
    for task in submitted_tasks(folder / RECORDS):
        subprocess.run(["scontrol", "release", task.id], check=True)


def test_an_edit_while_runs_are_queued_changes_nothing(cli, sweep, tmp_path, forked_on_slurm):
    path = sweep()
    checkout = tmp_path / "checkout"
    shutil.copytree(PACKAGE, checkout / "stitching", ignore=shutil.ignore_patterns("__pycache__"))
    command = forked.stitching("submit", path, *HELD)
    forked.run(command, env=os.environ | {"PYTHONPATH": str(checkout)}, cwd=checkout, check=True)
    for file in checkout.rglob("*.py"):
        file.write_text("raise SystemExit('edited after it was submitted')\n")
    assert {run["other_code"] for run in status(cli, path).values()} == {False}
    assert cli("clean", path).out.endswith("0.0 kB freed\n")
    release(folder_of(path))
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    (digest,) = {record.code for record in read_records(folder_of(path) / RECORDS)}
    for metadata in folder_of(path).glob("*/metadata.yml"):
        assert read_yaml(metadata)["code"] == {"digest": digest}  # of a checkout without .git
    assert_each_ran_once(path)
    assert f"removed code {digest}" in cli("clean", path).out
    assert [file.name for file in (folder_of(path) / RECORDS).iterdir()] == []
    assert {run["state"] for run in status(cli, path).values()} == {"done"}


def test_a_damaged_snapshot_fails_its_runs_with_the_reason_in_the_log(cli, sweep, forked_on_slurm):
    path = sweep()
    assert cli("submit", path, *HELD).code == 0
    (snapshot,) = (folder_of(path).parent / ".code").glob("[!.]*")
    (snapshot / "stitching" / "training" / "trainer.py").write_text("")
    release(folder_of(path))
    wait_until_over(path)
    wait(lambda: {run["state"] for run in status(cli, path).values()} == {"failed"})
    for task in submitted_tasks(folder_of(path) / RECORDS):
        assert f"the code in {snapshot} is damaged, so nothing was run" in task.log.read_text()
    assert "5 runs submitted" in cli("retry", path, "--pack", "4").out
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}


KILLED = """
import os, signal, sys
from submitit import SlurmExecutor
import stitching.cli
sys.executable = {python!r}
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
SlurmExecutor.{point} = kill
sys.argv = ["stitching", "submit", *sys.argv[1:]]
stitching.cli.main()
"""


@pytest.mark.parametrize(
    ("point", "queued"),
    [("_make_submission_command", False), ("_get_job_id_from_submission_command", True)],
    ids=["before sbatch", "after sbatch"],
)
def test_a_submit_that_is_killed_around_sbatch_queues_nothing_twice(cli, sweep, point, queued, forked_on_slurm):
    path = sweep()
    before = set(held_tasks())
    command = [sys.executable, "-c", KILLED.format(point=point, python=sys.executable), str(path), *HELD]
    assert forked.run(command).returncode == -signal.SIGKILL
    (record,) = read_records(folder_of(path) / RECORDS)
    assert record.job is None
    held = set(held_tasks()) - before
    assert len(held) == (2 if queued else 0)
    assert [run["state"] for run in status(cli, path).values()] == ["pending" if queued else "missing"] * 5
    outcome = cli("submit", path, *HELD)
    assert f"{0 if queued else 5} runs submitted" in outcome.out, outcome
    assert f"{5 if queued else 0} in the queue before" in outcome.out
    assert len(set(held_tasks()) - before) == 2
    assert held <= set(held_tasks())
    release(folder_of(path))
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert_each_ran_once(path)


def test_a_moved_folder_keeps_its_logs_and_does_not_count_on_its_queued_jobs(cli, sweep, forked_on_slurm):
    path = sweep()
    assert cli("submit", path, *HELD).code == 0
    ids = {task.id for task in submitted_tasks(folder_of(path) / RECORDS)}
    moved = folder_of(path).with_name("moved")
    folder_of(path).rename(moved)
    outcome = cli("status", moved)
    assert outcome.out.count(f"its job was submitted when this folder was {folder_of(path)}") == 5
    assert "5 missing" in outcome.out
    moved.rename(folder_of(path))
    assert {run["state"] for run in status(cli, path).values()} == {"pending"}
    release(folder_of(path))
    wait_until_over(path)
    folder_of(path).rename(moved)
    assert "5 done" in cli("status", moved).out
    assert {task.id for task in submitted_tasks(moved / RECORDS)} == ids
    assert (
        "Job completed" in cli("logs", next(moved.glob("train-*"))).out
        or "epoch" in cli("logs", next(moved.glob("train-*"))).out
    )
