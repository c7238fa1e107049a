"""Sweeps on a real Slurm: submitted once, trained once, and gone on with whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cluster
import pandas as pd
import pytest
import yaml

import stitching.sweeps.slurm as launching
from stitching.sweeps.slurm import job_states, submitted_tasks
from stitching.sweeps.status import SLURM_FOLDER
from stitching.training.results import TIMING_COLUMNS, read_result

pytestmark = pytest.mark.usefixtures("slurm")

PROFILES = """\
test: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 30}
short: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 1, signal_seconds: 40}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Write a sweep of four runs into a project of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # jobs inherit it
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "sbatch" / "clusters.yml").write_text(PROFILES)

    def write(name: str = "small", **train_config) -> Path:
        data = {
            "project": "tests",
            "models": [{"model_name": "convnet", "num_blocks": 4, "width": 8, "in_chans": 1}],
            "gaps": [{"blocks_to_drop": [1, 1]}, {"blocks_to_drop": [1, 2]}],
            "stitchers": ["affine", "downsample_then_block"],
            "train_config": {
                "dataset": "digits", "data_preprocessing": {"image_size": 32}, "epochs": 2, "batch_size": 128,
                "optimizer_args": {"lr": 0.01}, **train_config,
            },
        }  # fmt: skip
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


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


def test_submitted_runs_end_as_they_do_here(cli, sweep):
    path = sweep()
    began = time.monotonic()
    outcome = cli("submit", path, "--cluster", "test", "--pack", "2")
    assert outcome.code == 0, outcome.err
    assert "4 runs submitted in 2 tasks" in outcome.out
    assert time.monotonic() - began < 20
    assert {run["state"] for run in status(cli, path).values()} <= {"pending", "running", "done"}
    again = cli("submit", path, "--cluster", "test")
    assert "0 runs submitted" in again.out
    wait_until_over(path)
    runs = status(cli, path)
    assert [run["state"] for run in runs.values()] == ["done"] * 4
    assert all(run["epoch"] == 2 and 0 <= run["accuracy"] <= 1 for run in runs.values())
    assert "4 done before" in cli("submit", path, "--cluster", "test").out
    here = sweep("here")
    assert cli("submit", here, "--cluster", "local").code == 0
    assert_same(frames(path), frames(here))


def test_two_submits_at_once_train_every_run_once(cli, sweep):
    path = sweep()
    command = [sys.executable, "-m", "stitching", "submit", str(path), "--cluster", "test", "--pack", "1"]
    both = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(out.split()[0] for out, _ in told) == ["0", "4"]
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert [log.count("epoch 1,") for log in logs(path)] == [1] * 4


@pytest.mark.slow
def test_the_time_limit_costs_nothing(cli, sweep):
    path = sweep(epochs=150)
    outcome = cli("submit", path, "--cluster", "short", "--pack", "4")
    assert outcome.code == 0, outcome.err
    wait(lambda: any("resumed at epoch" in log for log in logs(path)), 200)
    wait_until_over(path, 400)
    assert_undisturbed(cli, path, sweep("undisturbed", epochs=150))


def test_a_killed_task_is_failed_and_gone_on_with(cli, sweep):
    path = sweep(epochs=40)
    submit_and_wait_for_checkpoints(cli, path)
    killed = subprocess.run(["pkill", "-KILL", "-f", f"submitit.core._submit {folder_of(path)}"], check=False)
    assert killed.returncode == 0
    wait_until_over(path)
    wait(lambda: {run["state"] for run in status(cli, path).values()} == {"failed"})
    assert all(run["words"] for run in status(cli, path).values())
    assert "4 runs submitted" in cli("submit", path, "--cluster", "test", "--pack", "4").out
    wait_until_over(path)
    assert all("resumed at epoch" in log for log in logs(path))
    assert_undisturbed(cli, path, sweep("undisturbed", epochs=40))


def test_cancelled_runs_are_gone_on_with(cli, sweep):
    path = sweep(epochs=40)
    submit_and_wait_for_checkpoints(cli, path)
    assert "4 runs in 1 tasks cancelled" in cli("cancel", path).out
    wait_until_over(path)
    runs = status(cli, path)
    assert {run["state"] for run in runs.values()} <= {"stopped", "failed"}
    assert "4 runs submitted" in cli("submit", path, "--cluster", "test").out
    cli("cancel", path)


def test_other_code_is_refused(cli, sweep, monkeypatch):
    path = sweep()
    monkeypatch.setattr(launching, "code_digest", lambda: "of-yesterday")
    assert cli("submit", path, "--cluster", "test", "--pack", "4").code == 0
    wait_until_over(path)
    runs = status(cli, path)
    assert {run["state"] for run in runs.values()} == {"failed"}
    assert all("the code changed after it was submitted (of-yesterday then" in run["words"] for run in runs.values())
    assert not list(folder_of(path).glob("*/result.pkl"))


def test_arrays_are_no_larger_than_the_cluster_allows(cli, sweep, monkeypatch):
    assert launching._max_array_size() == 1001
    path = sweep()
    monkeypatch.setattr(launching, "_max_array_size", lambda: 3)
    outcome = cli("submit", path, "--cluster", "test", "--pack", "1")
    assert outcome.code == 0, outcome.err
    ids = [task.id for task in submitted_tasks(folder_of(path) / SLURM_FOLDER)]
    assert [each.partition("_")[2] for each in ids] == ["0", "1", "2", ""]  # the last one is alone, and no array
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}


def test_a_dry_run_prints_and_writes_nothing(cli, sweep):
    path = sweep()
    outcome = cli("submit", path, "--cluster", "test", "--pack", "1", "--dry-run", "--slurm", "sbatch.nice=5")
    assert outcome.code == 0, outcome.err
    limited = cli("submit", path, "--cluster", "test", "--pack", "1", "--dry-run", "--array-parallelism", "2")
    assert "#SBATCH --array=0-3%2" in limited.out
    for line in ("#SBATCH --array=0-3%4", "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --nice=5"):
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


def test_without_slurm_it_is_told(cli, sweep, monkeypatch, tmp_path, slurm):
    path = sweep()
    (tmp_path / "slurm.conf").write_text(
        (slurm / "slurm.conf").read_text().replace("SlurmctldPort=", "SlurmctldPort=1")
    )
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr(launching, "PATIENCE", 5)
    outcome = cli("submit", path, "--cluster", "test")
    assert outcome.code == 2
    assert "Unable to contact slurm controller" in outcome.err or "does not answer" in outcome.err
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    outcome = cli("submit", path, "--cluster", "test")
    assert outcome.code == 2
    assert "there is no Slurm here" in outcome.err
    assert "--cluster local" in outcome.err


def test_status_without_slurm_says_what_is_known(cli, sweep, monkeypatch):
    path = sweep()
    assert cli("submit", path, "--cluster", "test", "--pack", "4").code == 0
    wait_until_over(path)
    done = next(folder_of(path).glob("*/metadata.yml"))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    metadata = yaml.safe_load(done.read_text())
    done.write_text(yaml.safe_dump({**metadata, "state": "running"}))
    run = status(cli, path)[done.parent.name]
    assert run["state"] == "unknown"
    assert "it was running; there is no Slurm here" in run["words"]


def test_signals_of_slurm_reach_the_trainer(cli, sweep):
    """Preempted as a preempting scheduler does it, by USR2: saved, back in the queue, gone on with."""
    path = sweep(epochs=40)
    submit_and_wait_for_checkpoints(cli, path)
    (task,) = submitted_tasks(folder_of(path) / SLURM_FOLDER)
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name}", task.id], check=True)
    wait(lambda: any("stopped at epoch" in log for log in logs(path)))
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert all(log.count("resumed at epoch") == 1 for log in logs(path))


@pytest.mark.slow
def test_put_back_by_the_administrator_in_the_middle_of_an_epoch(cli, sweep):
    path = sweep(epochs=40)
    submit_and_wait_for_checkpoints(cli, path)
    (task,) = submitted_tasks(folder_of(path) / SLURM_FOLDER)
    subprocess.run(["scontrol", "requeue", task.id], check=True)
    wait(lambda: any("resumed at epoch" in log for log in logs(path)), 240)
    wait_until_over(path, 240)
    assert_undisturbed(cli, path, sweep("undisturbed", epochs=40))


@pytest.mark.slow
def test_the_controller_may_restart_while_runs_train(cli, sweep, slurm):
    path = sweep(epochs=40)
    submit_and_wait_for_checkpoints(cli, path)
    cluster.stop_daemon(slurm, "slurmctld")
    cluster.start_controller(slurm)
    assert {run["state"] for run in status(cli, path).values()} <= {"running", "done"}
    assert "0 runs submitted" in cli("submit", path, "--cluster", "test").out
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert all(log.count("epoch 1,") == 1 for log in logs(path))
