"""Sweeps on a real Slurm: submitted once, trained once, and gone on with whatever happens on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import cluster
import pytest
from on_slurm import (
    assert_same,
    folder_of,
    frames,
    status,
    trained,
    wait,
    wait_until_over,
)
from yaml_files import read_yaml

import stitching.launch.schedulers.slurm as slurm_scheduler
import stitching.launch.schedulers.slurm_commands as slurm_commands
from stitching.launch.records import RECORDS
from stitching.launch.schedulers.slurm_accounting import task_ids_of
from stitching.launch.schedulers.slurm_queue import held_tasks
from stitching.launch.submitted import submitted_tasks
from stitching.runs.folder import write_yaml

pytestmark = pytest.mark.usefixtures("slurm")


def test_submitted_runs_end_as_they_do_here(cli, sweep, left_here, only_first_fresh):
    path = sweep()
    began = time.monotonic()
    outcome = cli("submit", path, "--cluster", "test", "--pack", "4")
    assert outcome.code == 0, outcome.err
    assert "5 runs submitted in 2 tasks" in outcome.out
    assert time.monotonic() - began < 20
    assert {run["state"] for run in status(cli, path).values()} <= {"pending", "running", "done"}
    again = cli("submit", path, "--cluster", "test")
    assert "0 runs submitted" in again.out
    wait_until_over(path)
    runs = status(cli, path)
    assert [run["state"] for run in runs.values()] == ["done"] * 5
    assert all(0 <= run["accuracy"] <= 1 for run in runs.values())
    assert [run["epoch"] for run in trained(runs).values()] == [2] * 4
    assert "5 done before" in cli("submit", path, "--cluster", "test").out
    assert_same(frames(path), left_here())


@pytest.mark.slow
def test_names_with_quotes_and_spaces_mean_themselves_to_slurm(cli, sweep, tmp_path):
    """In the batch script, in Slurm's own reading of it, and in the names of logs."""
    path = sweep()
    project = """it's "a b"; $(touch PWNED) `touch PWNED` & #ü"""
    path.write_text(path.read_text().replace("project: tests", "project: " + json.dumps(project)))
    assert cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "sbatch.comment=it's # me").code == 0
    folder = tmp_path / "experiments" / project / "small"
    tasks = submitted_tasks(folder / RECORDS)
    wait(lambda: not {task.id for task in tasks} & held_tasks().keys())
    assert [run["state"] for run in status(cli, path).values()] == ["done"] * 5
    assert len(tasks) == 2
    assert all(task.log.is_relative_to(folder) and task.log.is_file() for task in tasks)
    assert not list(tmp_path.rglob("PWNED"))


def test_arrays_are_no_larger_than_the_cluster_allows(cli, sweep, monkeypatch, forked_on_slurm):
    assert slurm_scheduler.largest_array() == 1001
    path = sweep()
    monkeypatch.setattr(slurm_scheduler, "largest_array", lambda: 4)
    outcome = cli("submit", path, "--cluster", "test", "--pack", "1")
    assert outcome.code == 0, outcome.err
    ids = [task.id for task in submitted_tasks(folder_of(path) / RECORDS)]
    assert [each.partition("_")[2] for each in ids] == ["0", "1", "2", "3", ""]  # the last one is alone, and no array
    assert "5 runs in 5 tasks cancelled" in cli("cancel", path).out


def test_tasks_that_sacct_tells_of_together():
    assert task_ids_of("7") == ["7"]
    assert task_ids_of("7_1") == ["7_1"]
    assert task_ids_of("7_[2-4,6,10-14:2%5]") == ["7_2", "7_3", "7_4", "7_6", "7_10", "7_12", "7_14"]


def test_a_job_may_submit_others(cli, sweep, monkeypatch, forked_on_slurm):
    """As in a shell that `srun --pty` gave: what Slurm has put into its environment is not for the new jobs."""
    path = sweep()
    for name, value in {"JOB_ID": "4711", "MEM_PER_CPU": "100", "NTASKS": "3", "PROCID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert cli("submit", path, "--cluster", "test", "--pack", "4").code == 0
    assert os.environ["SLURM_JOB_ID"] == "4711"
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}


def test_a_dry_run_prints_and_writes_nothing(cli, sweep):
    path = sweep()
    outcome = cli("submit", path, "--cluster", "test", "--pack", "1", "--dry-run", "--slurm", "sbatch.nice=5")
    assert outcome.code == 0, outcome.err
    limited = cli("submit", path, "--cluster", "test", "--pack", "1", "--dry-run", "--array-parallelism", "2")
    assert "#SBATCH --array=0-4%2" in limited.out
    for line in ("#SBATCH --array=0-4%5", "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --nice=5"):
        assert line in outcome.out
    assert not folder_of(path).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cluster", "tset"], "did you mean 'test'"),
        (["--cluster", "test", "--slurm", "partition=nowhere"], "Invalid partition"),
        (["--cluster", "test", "--slurm", "gpus=77"], "Requested node configuration is not available"),
        (["--cluster", "test", "--slurm", "account=nobody"], "Invalid account"),
        (["--cluster", "test", "--slurm", "partiton=gpu"], "did you mean 'partition'"),
        (["--cluster", "test", "--slurm", "minutes=soon"], "expected a whole number"),
        (["--cluster", "test", "--slurm", "minutes"], "no assignment"),
    ],
)
def test_what_slurm_would_refuse_is_told_before_anything_is_written(cli, sweep, options, words):
    path = sweep()
    outcome = cli("submit", path, *options)
    assert outcome.code == 2, outcome
    assert outcome.err.count("error: ") == 1
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert not list(folder_of(path).glob("*/config.yml"))


def test_a_controller_that_is_down_is_told_at_once(cli, sweep, slurm):
    """The commands that need it give up after 9 to 18 seconds each; a ping says the same in none."""
    path = sweep()
    assert cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "sbatch.hold=true").code == 0
    cluster.stop_daemon(slurm, "slurmctld")
    try:
        began = time.monotonic()
        submitted, retried = cli("submit", path, "--cluster", "test"), cli("retry", path)
        states = {run["state"] for run in status(cli, path).values()}
        assert time.monotonic() - began < 9
    finally:
        cluster.start_controller(slurm)
        wait(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout)
    assert submitted.code == 2
    assert "Slurm's controller does not answer" in submitted.err
    assert retried.code == 1
    assert "the state of 5 runs is unknown, because their scheduler cannot be asked" in retried.err
    assert states == {"unknown"}
    assert "5 runs in 2 tasks cancelled" in cli("cancel", path).out


def test_runs_that_were_queued_before_their_sweep_was_edited_are_named(cli, sweep):
    path = sweep()
    assert cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "sbatch.hold=true").code == 0
    assert "edited" not in cli("plan", path).out
    sweep(epochs=3, max_batches=4)  # the whole network, which is only tested, has no epochs
    again = cli("submit", path, "--cluster", "test")
    assert "0 runs submitted" in again.out
    for outcome in (again, cli("plan", path)):
        assert "the sweep was edited after 4 runs were queued" in outcome.out
        assert "train-small-gap-1,1-adapter-affine" in outcome.out
        assert f"stitching cancel {folder_of(path)}" in outcome.out
    assert {run["outdated"] for run in trained(status(cli, path)).values()} == {True}
    assert {run["state"] for run in status(cli, path).values()} == {"pending"}
    assert "with another config than the sweep has now" in cli("status", path).out
    assert "5 runs in 2 tasks cancelled" in cli("cancel", folder_of(path)).out
    wait_until_over(path)
    outcome = cli("submit", path, "--cluster", "test", "--slurm", "sbatch.hold=true")
    assert "5 runs submitted" in outcome.out
    assert "edited" not in outcome.out
    assert len(list((folder_of(path) / "stale").iterdir())) == 4
    cli("cancel", path)


def test_without_slurm_it_is_told(cli, sweep, monkeypatch, tmp_path, slurm):
    path = sweep()
    (tmp_path / "slurm.conf").write_text(
        (slurm / "slurm.conf").read_text().replace("SlurmctldPort=", "SlurmctldPort=1")
    )
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr(slurm_commands, "PATIENCE", 5)
    outcome = cli("submit", path, "--cluster", "test")
    assert outcome.code == 2
    assert "Unable to contact slurm controller" in outcome.err or "does not answer" in outcome.err
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    outcome = cli("submit", path, "--cluster", "test")
    assert outcome.code == 2
    assert "there is no Slurm here" in outcome.err
    assert "--cluster local" in outcome.err


def test_status_without_slurm_says_what_is_known(cli, sweep, monkeypatch, forked_on_slurm):
    path = sweep()
    assert cli("submit", path, "--cluster", "test", "--pack", "4").code == 0
    wait_until_over(path)
    done = next(folder_of(path).glob("*/metadata.yml"))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    write_yaml(done, {**read_yaml(done), "state": "running"})
    run = status(cli, path)[done.parent.name]
    assert run["state"] == "unknown"
    assert "it was running; there is no Slurm here" in run["words"]
