"""Two submits of a sweep at once, and sweeps that are stopped: nothing runs twice, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import forked
import pytest
import yaml
from small_sweeps import (
    HERE,
    ROW,
    assert_same,
    cluster_of,
    frames,
    gaps,
    go,
    plan_of,
    states,
    stitched_runs,
    submit,
    times_started,
    write_sweep,
)

from stitching.launch.orders import Order
from stitching.launch.schedulers.worker_pool import run_locally
from stitching.launch.submit import state_of
from stitching.launch.submit import submit as submit_order
from stitching.launch.tasks import run_task
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.sweeps.plan import Plan, PlannedRun


def test_a_run_that_is_being_trained_is_left_alone(sweep):
    plan = plan_of(sweep)
    busy = plan.runs[1]
    with plan.folder_of(busy).locked():
        _, outcome = go(sweep)
        assert [run.name for run in outcome.elsewhere] == [busy.name]
        assert busy.name not in {run.name for run in outcome.ended}
    assert state_of(plan, busy) == "missing"
    assert [run.name for run in go(sweep)[1].ended] == [busy.name]


def test_a_task_says_that_it_skips_a_run_that_is_being_trained(sweep, capfd, forked_tasks):
    plan = plan_of(sweep)
    other, busy, *_ = map(plan.folder_of, plan.runs)

    def take_one(tasks, *, jobs, on_progress):
        with busy.locked():
            return run_locally(tasks, jobs=jobs, on_progress=on_progress)

    outcome = submit(plan, cluster_of(take_one), among=[other.path.name, busy.path.name])
    assert [run.name for run in outcome.elsewhere] == [busy.path.name]
    assert f"note: {busy.path.name} is skipped: another process is training in" in capfd.readouterr().err


def test_a_run_that_another_submit_finished_meanwhile_is_not_begun_again(sweep):
    plan = plan_of(sweep)
    order = Order.of(plan, HERE)  # what this submit sees first
    go(sweep)
    outcome = submit_order(order, pack=8)
    assert (outcome.ended, len(outcome.elsewhere)) == ([], 5)
    assert [times_started(plan.folder / run.name) for run in plan.runs] == [1] * 5
    assert states(plan) == {"done"}


def test_two_submits_at_once_train_every_run_once(cli, tmp_path, forked_tasks):
    sweep = write_sweep(tmp_path / "small.yml", **ROW, train_config={"epochs": 3})
    command = forked.stitching("submit", sweep, "--cluster", "local", "--pack", "2")
    other = forked.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    plan = plan_of(sweep)
    while not plan.folder_of(plan.runs[0]).metadata.exists():
        assert other.poll() is None
        time.sleep(0.02)
    ours = cli("submit", sweep, "--cluster", "local", "--pack", "3")
    told = other.communicate(timeout=120)
    assert (other.returncode, ours.code) == (0, 0), (told, ours)
    assert states(plan) == {"done"}
    assert [times_started(plan.folder / run.name) for run in plan.runs] == [1] * 5
    assert not (plan.folder / "stale").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_checkpoints_and_the_next_submit_finishes(cli, tmp_path, number, forked_tasks):
    long = ROW | {"train_config": {"epochs": 8, "batch_size": 64}, "gaps": gaps([1, 1])}
    sweep = write_sweep(tmp_path / "small.yml", **long)
    plan = plan_of(sweep)
    stitched, (tested,) = stitched_runs(plan), [run for run in plan.runs if run.stitch.only_tests]
    checkpoints = [plan.folder / run.name / "checkpoint.pt" for run in stitched]

    def stop_after_the_first_epoch() -> None:
        while not all(path.exists() for path in checkpoints):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop_after_the_first_epoch, daemon=True).start()
    outcome = cli("submit", sweep, "--cluster", "local")
    assert outcome.code == 130
    assert f"To resume: stitching submit {sweep} --cluster local" in outcome.err
    assert "Traceback" not in outcome.err
    assert {state_of(plan, run) for run in stitched} == {"stopped"}
    assert state_of(plan, tested) == "submitted"  # its turn had not come
    for run in stitched:
        metadata = yaml.safe_load((plan.folder / run.name / "metadata.yml").read_text())
        assert 23 <= metadata["steps"] < 8 * 23
    if number == signal.SIGTERM:
        return
    assert len(go(sweep)[1].ended) == 3
    assert all("resumed at" in (plan.folder / run.name / "log.txt").read_text() for run in stitched)
    assert times_started(plan.folder / tested.name) == 1
    stopped = frames(plan)
    shutil.rmtree(plan.folder)
    go(sweep)
    assert_same(stopped, frames(plan))


def test_a_task_stops_when_it_is_asked_to(sweep):
    plan = plan_of(sweep)
    told: list[int] = []
    stop = StopRequest()

    def asking(done: int, _total: int, _words: str) -> None:
        told.append(done)
        stop.asked = done >= 4

    def cluster(tasks, *, jobs, on_progress):
        for task in tasks:
            run_task([folder.path for folder in task], asking, stop)
        return {}

    with pytest.raises(Interrupted):
        submit(plan, cluster_of(cluster))
    assert [state_of(plan, run) for run in plan.runs] == ["stopped"] * 4 + ["submitted"]  # the last is a task apart
    assert len(go(sweep)[1].ended) == 5


def write_configs(plan: Plan, run: PlannedRun) -> None:
    """Submit one run to a cluster that does nothing."""
    assert submit(plan, cluster_of(lambda *_, **__: {}), among=[run.name]).ended == []


def test_a_whole_network_whose_test_was_stopped_is_tested_by_the_next_submit(sweep):
    plan = plan_of(sweep)
    tested = plan.runs[-1]
    assert tested.stitch.only_tests
    write_configs(plan, tested)
    stop = StopRequest()
    stop.asked = True
    with pytest.raises(Interrupted):
        run_task([plan.folder / tested.name], stop=stop)
    assert state_of(plan, tested) == "stopped"
    assert len(go(sweep)[1].ended) == 5
    assert times_started(plan.folder / tested.name) == 1


def test_a_task_whose_launcher_is_gone_saves_and_ends(tmp_path):
    long = ROW | {"train_config": {"epochs": 30, "batch_size": 32}, "gaps": gaps([1, 1]), "stitchers": ["affine"]}
    plan = plan_of(write_sweep(tmp_path / "small.yml", **long))
    (run,) = stitched_runs(plan)
    write_configs(plan, run)
    command = [sys.executable, "-m", "stitching.launch.tasks", str(plan.folder / run.name)]
    process = forked.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it trains
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert state_of(plan, run) == "stopped"
    assert (plan.folder / run.name / "checkpoint.pt").exists()
