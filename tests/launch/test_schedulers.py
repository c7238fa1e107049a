"""A scheduler is one class and its registration: every command for sweeps works with it, and none knows its name."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from small_sweeps import ROW, gaps, plan_of, states, write_sweep

from stitching.config.clusters import ClusterProfile
from stitching.launch.records import Submitted
from stitching.launch.schedulers import SCHEDULERS, Batch, Cluster, TaskEnd, TaskState
from stitching.launch.schedulers.queue import QueueScheduler
from stitching.launch.tasks import run_task

QUEUE: dict[str, Batch] = {}  # by the job's id
CANCELLED: set[str] = set()


class SpoolProfile(ClusterProfile):
    quality: int = 1


@SCHEDULERS.register("spool")
class Spool(QueueScheduler):
    """Holds tasks until a test runs them."""

    profile = SpoolProfile

    def submit(self, batch: Batch, cluster: Cluster) -> str:
        job = secrets.token_hex(3)
        QUEUE[job] = batch
        return job

    def script(self, batch: Batch, profile) -> str:
        return f"quality {profile.quality}: " + " ".join(batch.command(0))

    def states(self) -> Mapping[str, TaskState]:
        return {job: TaskState(is_waiting=True, words="until the test runs it") for job in QUEUE}

    def ends(self, tasks: Sequence[Submitted]) -> Mapping[str, TaskEnd]:
        return {task.id: TaskEnd("cancelled", "cancelled") for task in tasks if task.id in CANCELLED}

    def cancel(self, ids: Sequence[str]) -> None:
        CANCELLED.update(ids)
        for id in ids:
            del QUEUE[id]


def run_queue() -> None:
    """What a scheduler does: each task once, its output in its log."""
    for job, batch in list(QUEUE.items()):
        failures = run_task(batch.tasks[0])
        (batch.folder / f"{job}.log").write_text(f"task {job} is over: {failures}\n")
        del QUEUE[job]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two stitched runs that share a task, and one of the whole network."""
    QUEUE.clear()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "sbatch" / "clusters.yml").write_text("mine: {scheduler: spool, quality: 7}\n")
    return write_sweep(tmp_path / "small.yml", **ROW | {"gaps": gaps([1, 1])})


def status(cli, place: Path) -> dict[str, dict]:
    return {run["name"]: run for run in json.loads(cli("status", place, "--json").out)}


def test_every_command_works_with_a_scheduler_that_was_only_registered(cli, sweep):
    folder = plan_of(sweep).folder
    assert cli("submit", sweep, "--cluster", "mine", "--dry-run").out.startswith("quality 7: ")
    assert not folder.exists()
    submitted = cli("submit", sweep, "--cluster", "mine")
    assert submitted.code == 0, submitted.err
    assert "3 runs submitted in 2 tasks" in submitted.out
    assert {(run["state"], run["words"]) for run in status(cli, folder).values()} == {
        ("pending", "until the test runs it")
    }
    assert "0 runs submitted in 0 tasks; 0 done before, 3 in the queue" in cli("submit", sweep, "--cluster", "mine").out
    assert "3 runs in 2 tasks cancelled" in cli("cancel", sweep).out
    assert {run["cause"] for run in status(cli, folder).values()} == {"cancelled"}
    assert "no failed runs" in cli("retry", sweep).out
    assert "3 runs submitted" in cli("retry", sweep, "--cancelled").out  # to the same cluster
    run_queue()
    assert {run["state"] for run in status(cli, folder).values()} == {"done"}
    assert " is over: {}" in cli("logs", folder / next(iter(status(cli, folder)))).out
    assert "removed record, pickles and logs" in cli("clean", folder).out


def test_a_profile_has_the_keys_of_its_scheduler(cli, sweep):
    changed = cli("submit", sweep, "--cluster", "mine", "--dry-run", "--slurm", "quality=3")
    assert changed.out.startswith("quality 3: ")
    for option, problem in (("qualty=3", "did you mean 'quality'"), ("partition=gpu", "unknown key 'partition'")):
        outcome = cli("submit", sweep, "--cluster", "mine", "--slurm", option)
        assert (outcome.code, problem in outcome.err) == (2, True), outcome
    sweep.parent.joinpath("sbatch", "clusters.yml").write_text("mine: {scheduler: spol}\n")
    outcome = cli("submit", sweep, "--cluster", "mine")
    assert outcome.code == 2
    assert "clusters.yml:1: mine.scheduler: there is no scheduler 'spol'; did you mean 'spool'?" in outcome.err


def test_a_plugin_registers_a_scheduler(cli, sweep):
    clusters = sweep.parent / "sbatch" / "clusters.yml"
    (clusters.parent / "printer.py").write_text("""
from stitching.launch.schedulers import SCHEDULERS
from stitching.launch.schedulers.queue import QueueScheduler


@SCHEDULERS.register("printer")
class Printer(QueueScheduler):
    needs_profile = False

    def submit(self, batch, cluster):
        return "17"

    def script(self, batch, profile):
        return f"print {len(batch.tasks[0])} runs"
""")
    unknown = cli("submit", sweep, "--cluster", "printer")
    assert (unknown.code, "there is no cluster 'printer'" in unknown.err) == (2, True)
    clusters.write_text("plugins: [printer.py]\nmine: {scheduler: spool}\n")
    printed = cli("submit", sweep, "--cluster", "printer", "--dry-run")
    assert printed.out == "print 2 runs\nprint 1 runs\n", printed.err
    clusters.write_text("plugins: [missing.py]\nmine: {scheduler: spool}\n")
    missing = cli("submit", sweep, "--cluster", "mine")
    assert (missing.code, f"{clusters}:1: plugins.0: " in missing.err) == (2, True), missing.err


def test_runs_that_are_queued_are_left_to_their_queue(cli, sweep, without_processes):
    """A run that is started here, too, would be trained by whichever comes first, and hold up the other."""
    plan = plan_of(sweep)
    assert cli("submit", sweep, "--cluster", "mine").code == 0
    here = cli("submit", sweep, "--cluster", "local")
    assert here.code == 0, here.err
    assert "0 runs done, 0 done before, 0 failed, 3 left to the queue that they are in" in here.out
    assert states(plan) == {"submitted"}
    cli("cancel", sweep)
    assert "3 runs done" in cli("submit", sweep, "--cluster", "local").out


def test_single_runs_are_cancelled_with_their_pack_and_nothing_is_planned(cli, sweep, monkeypatch):
    plan = plan_of(sweep)
    names = [run.name for run in plan.runs]
    assert cli("submit", sweep, "--cluster", "mine").code == 0
    monkeypatch.setattr("stitching.sweeps.studies.make_plan", None)
    typo = cli("cancel", plan.folder, "--only", names[0][:-1])
    assert (typo.code, f"did you mean {names[0]!r}" in typo.err) == (2, True)
    whole = cli("cancel", plan.folder, "--only", "base-*")
    assert whole.out == "1 runs in 1 tasks cancelled\n"
    assert [run["state"] for run in status(cli, plan.folder).values()].count("pending") == 2
    pack = cli("cancel", sweep, "--only", names[0])
    assert pack.out == f"2 runs in 1 tasks cancelled\n  {names[1]}: cancelled too, in the same task\n"
    assert cli("cancel", plan.folder).out == "0 runs in 0 tasks cancelled\n"


def test_what_trains_without_a_queue_is_not_cancelled_but_said(cli, sweep, without_processes):
    plan = plan_of(sweep)
    assert cli("submit", sweep, "--cluster", "local").code == 0
    with plan.folder_of(plan.runs[0]).locked():
        outcome = cli("cancel", sweep)
    assert outcome.out.splitlines()[1].startswith("1 runs are in no queue and go on: press Ctrl-C")


def test_options_of_another_scheduler_are_refused(cli, sweep):
    for options in (["--cluster", "mine", "--jobs", "2"], ["--cluster", "local", "--array-parallelism", "2"]):
        outcome = cli("submit", sweep, *options)
        assert (outcome.code, "unknown key" in outcome.err) == (2, True), outcome
