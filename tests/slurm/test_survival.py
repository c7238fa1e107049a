"""Sweeps on a real Slurm survive what happens on a cluster: nothing is lost, nothing is run twice, no result changes."""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import cluster
import forked
import pytest
import yaml
from guards import why_unchanged
from on_slurm import (
    assert_each_ran_once,
    assert_undisturbed,
    folder_of,
    logs,
    status,
    submit_and_wait_for_checkpoints,
    trained,
    wait,
    wait_until_over,
)

from stitching.launch.records import RECORDS
from stitching.launch.schedulers.slurm_queue import held_tasks
from stitching.launch.submitted import failed_nodes, submitted_tasks
from stitching.runs.folder import write_yaml

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.slow
def test_the_time_limit_costs_nothing(cli, sweep, left_here):
    path = sweep(epochs=150)
    outcome = cli("submit", path, "--cluster", "short", "--pack", "4")
    assert outcome.code == 0, outcome.err
    wait(lambda: any("resumed at epoch" in log for log in logs(path)), 200)
    wait_until_over(path, 400)
    assert_undisturbed(cli, path, left_here(epochs=150))


def test_a_killed_task_is_failed_and_gone_on_with(cli, sweep, left_here, forked_on_slurm):
    path = sweep(epochs=6)
    submit_and_wait_for_checkpoints(cli, path)
    killed = subprocess.run(["pkill", "-KILL", "-f", f"submitit.core._submit {folder_of(path)}"], check=False)
    assert killed.returncode == 0
    wait_until_over(path)
    wait(lambda: {run["state"] for run in trained(status(cli, path)).values()} == {"failed"})
    runs = trained(status(cli, path))
    assert {(run["words"], run["cause"]) for run in runs.values()} == {("killed by SIGKILL", "killed")}
    assert "no failed runs to retry" in cli("retry", path, "--timeout").out
    assert "#SBATCH --time=77" in cli("retry", path, "--dry-run", "--slurm", "minutes=77").out
    assert "4 runs submitted" in cli("retry", path, "--pack", "4").out
    wait_until_over(path)
    assert all("resumed at epoch" in log for log in logs(path))
    assert_undisturbed(cli, path, left_here(epochs=6))


def test_a_memory_limit_is_told_and_retry_finds_it(cli, sweep):
    """The process ends before it could say so itself: while torch is being loaded."""
    path = sweep()
    limited = cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "setup=[ulimit -v 1000000]")
    assert "5 runs submitted in 2 tasks" in limited.out, limited.err
    wait_until_over(path)
    wait(lambda: {run["state"] for run in status(cli, path).values()} == {"failed"})
    runs = status(cli, path)
    assert {run["cause"] for run in runs.values()} == {"out of memory"}
    assert all("failed to map segment" in run["words"] for run in runs.values())
    assert "no failed runs to retry" in cli("retry", path, "--failed").out
    assert "#SBATCH --mem=2048M" in cli("retry", path, "--out-of-memory", "--slurm", "memory_gb=2", "--dry-run").out


def test_cancelled_runs_are_gone_on_with(cli, sweep, forked_on_slurm):
    path = sweep(epochs=15)
    submit_and_wait_for_checkpoints(cli, path)
    assert "4 runs in 1 tasks cancelled" in cli("cancel", path).out
    wait_until_over(path)
    runs = trained(status(cli, path))
    assert {run["state"] for run in runs.values()} == {"stopped"}
    assert {run["cause"] for run in runs.values()} == {"cancelled"}
    assert "no failed runs to retry" in cli("retry", path).out
    assert "4 runs submitted" in cli("retry", path, "--cancelled").out
    cli("cancel", path)


def test_signals_of_slurm_reach_the_trainer(cli, sweep, left_here, only_first_fresh):
    """Preempted as a preempting scheduler does it, by USR2: saved, back in the queue, gone on with."""
    path = sweep(epochs=6)
    submit_and_wait_for_checkpoints(cli, path)
    (task,) = submitted_tasks(folder_of(path) / RECORDS)
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name}", task.id], check=True)
    wait(lambda: any("stopped at epoch" in log for log in logs(path)))
    wait_until_over(path)
    assert_undisturbed(cli, path, left_here(epochs=6))
    assert all(log.count("resumed at epoch") == 1 for log in logs(path))


@pytest.mark.slow
def test_put_back_by_the_administrator_in_the_middle_of_an_epoch(cli, sweep, left_here):
    path = sweep(epochs=15)
    submit_and_wait_for_checkpoints(cli, path)
    (task,) = submitted_tasks(folder_of(path) / RECORDS)
    subprocess.run(["scontrol", "requeue", task.id], check=True)
    wait(lambda: any("resumed at epoch" in log for log in logs(path)), 240)
    wait_until_over(path, 240)
    assert_undisturbed(cli, path, left_here(epochs=15))


@pytest.mark.slow
def test_the_controller_may_restart_while_runs_train(cli, sweep, slurm):
    path = sweep(epochs=15)
    submit_and_wait_for_checkpoints(cli, path)
    cluster.stop_daemon(slurm, "slurmctld")
    cluster.start_controller(slurm)
    wait(lambda: "unk" not in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout)
    assert {run["state"] for run in status(cli, path).values()} <= {"running", "done"}
    assert "0 runs submitted" in cli("submit", path, "--cluster", "test").out
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert_each_ran_once(path)


def test_a_node_whose_daemon_restarts_loses_nothing(cli, sweep, slurm, forked_on_slurm):
    path = sweep(epochs=6)
    submit_and_wait_for_checkpoints(cli, path)
    cluster.stop_daemon(slurm, "slurmd")
    before = logs(path)
    wait(lambda: logs(path) != before)  # they train on
    cluster.start_node(slurm)
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert_each_ran_once(path)


@pytest.mark.slow
def test_a_node_that_is_lost_is_not_the_end(cli, sweep, left_here, slurm):
    """Slurm gives the node up and the job goes back to the queue, while its old process may still be at it."""
    path = sweep(epochs=150)
    submit_and_wait_for_checkpoints(cli, path)
    cluster.stop_daemon(slurm, "slurmd")
    wait(lambda: all(run["state"] in ("pending", "failed") for run in trained(status(cli, path)).values()), 120)
    assert failed_nodes(folder_of(path)) == [socket.gethostname().partition(".")[0]]
    cluster.start_node(slurm)
    wait_until_over(path, 300)
    assert_undisturbed(cli, path, left_here(epochs=150))
    assert_each_ran_once(path)


def test_a_broken_run_fails_once_and_alone(cli, sweep, forked_on_slurm):
    path = sweep()
    victim = "train-small-gap-1,1-adapter-affine"
    assert cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "sbatch.hold=true").code == 0
    config = folder_of(path) / victim / "config.yml"
    write_yaml(config, yaml.safe_load(config.read_text().replace("block_input: blocks.", "block_input: blocs.")))
    _release(folder_of(path))
    wait_until_over(path)
    runs = status(cli, path)
    assert [run["state"] for name, run in runs.items() if name != victim] == ["done"] * 4
    assert runs[victim]["state"] == "failed"
    assert runs[victim]["cause"] == "error"
    assert "did you mean 'blocks.2'" in runs[victim]["words"]
    retried = cli("retry", path)
    assert retried.code == 0, retried.err
    assert "1 runs submitted in 1 tasks" in retried.out
    wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}


@pytest.mark.skipif(bool(why_unchanged()), reason=f"a file system would be mounted, and {why_unchanged()}")
def test_a_full_disk_is_told_and_gone_on_with(cli, sweep, tmp_path, forked_on_slurm):
    path = sweep()
    small = tmp_path / "small"
    small.mkdir()
    path.write_text(path.read_text() + "save_dir: small/runs\n")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", small], check=True)
    try:
        assert cli("submit", path, "--cluster", "test", "--pack", "4", "--slurm", "sbatch.hold=true").code == 0
        _fill(small / "filling")
        held = _release(small / "runs")
        wait(lambda: not held & held_tasks().keys())
        runs = status(cli, path)
        assert {run["state"] for run in runs.values()} == {"failed"}, runs
        assert not list((small / "runs").glob("*/result.pkl"))
        assert not list((small / "runs").glob("*/.*.tmp"))
        again = cli("submit", path, "--cluster", "test")
        assert again.code == 2
        assert "No space left" in again.err
        assert "Traceback" not in again.err
        (small / "filling").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert "5 runs submitted" in cli("submit", path, "--cluster", "test").out
        wait(lambda: {run["state"] for run in status(cli, path).values()} == {"done"})
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def _release(folder: Path) -> set[str]:
    """Let the sweep's two tasks begin, which were submitted on hold; returns their ids."""
    ids = {task.id for task in submitted_tasks(folder / RECORDS)}
    assert len(ids) == 2  # of the stitched runs, and of the whole network
    for each in ids:
        subprocess.run(["scontrol", "release", each], check=True)
    return ids


def _fill(path: Path) -> None:
    """Write until there is no room left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_two_submits_at_once_and_again_train_every_run_once(cli, sweep, forked_on_slurm):
    path = sweep()
    command = forked.stitching("submit", path, "--cluster", "test", "--pack", "2")
    for settled in (False, True):
        both = [forked.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        told = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], told
        assert sorted(out.split()[0] for out, _ in told) == ["0", "0" if settled else "5"]
        wait_until_over(path)
    assert {run["state"] for run in status(cli, path).values()} == {"done"}
    assert_each_ran_once(path)
