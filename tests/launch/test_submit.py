"""Submitting to this machine: nothing runs twice, nothing is lost, and stopping or packing changes no result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import forked
import pandas as pd
import pytest
import torch
import yaml
from small_sweeps import (
    HERE,
    ROW,
    SMALLNET,
    assert_same,
    cluster_of,
    frame_of,
    frames,
    gaps,
    go,
    in_this_process,
    plan_of,
    states,
    submit,
    write_sweep,
)
from yaml_files import read_yaml

import stitching.launch.submit as submitting
import stitching.sweeps.studies as planning
from stitching.config.errors import UserError
from stitching.launch.orders import Order
from stitching.launch.packing import packed
from stitching.launch.schedulers import load_cluster, worker_pool
from stitching.launch.schedulers.worker_pool import run_locally
from stitching.launch.submit import state_of
from stitching.launch.tasks import run_task
from stitching.runs.code import PACKAGE, code_digest
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.provenance import git_state

# ------------------------------------------------------------------------ once each


def test_configs_are_on_the_disk_and_no_run_waits_for_that_of_another(sweep, monkeypatch):
    flushed: set[int] = set()  # the threads that do
    several = threading.Event()

    def flush(file):
        flushed.add(threading.get_ident())
        if len(flushed) > 1:
            several.set()
        assert several.wait(20), "one folder is written after the other"

    monkeypatch.setattr("stitching.runs.folder.os.fsync", flush)
    plan = plan_of(sweep)
    queue = cluster_of(lambda tasks, **_: {})
    submission = submit(plan, queue)
    assert not submission.refused
    assert states(plan) == {"submitted"}


def test_ctrl_c_while_configs_are_written_leaves_the_other_folders_alone(sweep, monkeypatch):
    closed, begun = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closed.set()
            super().shutdown()

    def press_ctrl_c(done, total, words):
        raise KeyboardInterrupt

    def write(path, data):
        begun.append(path.parent)
        assert closed.wait(20)
        write_yaml(path, data)

    monkeypatch.setattr(submitting, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(submitting, "write_yaml", write)
    monkeypatch.setattr(submitting, "_WRITERS", 1)
    with pytest.raises(KeyboardInterrupt):
        submitting.submit(Order.of(plan_of(sweep), HERE), pack=8, on_progress=press_ctrl_c)
    assert len(set(begun)) == 1
    monkeypatch.undo()
    assert len(go(sweep)[1].ended) == 5


def test_every_run_of_the_plan_is_trained_once(cli, sweep, tmp_path, monkeypatch):
    starts = iter([subprocess.Popen])  # the first task has an interpreter of its own, the other a forked one

    def start(command, **options):
        return next(starts, forked.popen)(command, **options)

    monkeypatch.setattr(worker_pool, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE))
    (tmp_path / "stitching").mkdir()
    (tmp_path / "stitching" / "__init__.py").write_text("raise SystemExit('not the snapshot')")
    monkeypatch.chdir(tmp_path)  # Python would look here first
    outcome = cli("submit", sweep, "--cluster", "local", "--pack", "4", "--jobs", "2")
    plan = plan_of(sweep)
    assert len(plan.runs) == 4 + 1  # stitched networks, and the whole one
    assert outcome.code == 0, outcome.err
    assert f"5 runs done, 0 done before, 0 failed; in {plan.folder}" in outcome.out
    for run in plan.runs:
        folder = plan.folder / run.name
        assert {"config.yml", "metadata.yml", "result.pkl", "log.txt"} <= {path.name for path in folder.iterdir()}
        assert not (folder / "checkpoint.pt").exists()
        frame = frame_of(folder)
        first = 0 if run.stitch.only_tests else 1
        assert list(frame["Step"]) == list(range(first, first + len(frame)))
        assert len(frame) == 1 or not run.stitch.only_tests
        assert frame["Overall/Test Accuracy"].notna().sum() == 1
        metadata = yaml.safe_load((folder / "metadata.yml").read_text())
        assert plan.metadata(run).items() <= metadata.items()
        assert (metadata["state"], metadata["identity"]) == ("done", run.identity)
        assert metadata["code"] == {"digest": code_digest(), **git_state(PACKAGE)}
    times = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.*")}
    outcome = cli("submit", sweep, "--cluster", "local")
    assert "0 runs done, 5 done before, 0 failed" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.*")} == times


def test_packs_of_any_size_give_the_same_results(tmp_path):
    results = []
    for pack in (1, 3, 8):
        path = write_sweep(tmp_path / f"pack-{pack}" / "small.yml", **ROW)
        plan, outcome = go(path, pack=pack)
        assert [len(pack) for pack in packed(plan.runs, 3)] == [3, 1, 1]  # the whole network is apart
        assert len(outcome.ended) == 5
        results.append(frames(plan))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_several_sweeps_are_all_planned_before_the_first_run(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("stitching.launch.schedulers.worker_pool.run_locally", in_this_process)
    paths = [write_sweep(tmp_path / f"{name}.yml", **{**ROW, "stitchers": ["affine"]}) for name in ("one", "two")]
    broken = write_sweep(tmp_path / "broken.yml", **{**ROW, "stitchers": ["afine"]})
    outcome = cli("submit", *paths, broken, "--cluster", "local")
    assert outcome.code == 2
    assert "did you mean 'affine'" in outcome.err
    plans = [plan_of(path) for path in paths]
    assert {state for plan in plans for state in states(plan)} == {"missing"}
    outcome = cli("submit", *paths, "--cluster", "local")
    assert outcome.code == 0, outcome.err
    assert [line.split(";")[0] for line in outcome.out.splitlines()] == ["3 runs done, 0 done before, 0 failed"] * 2
    assert {state for plan in plans for state in states(plan)} == {"done"}
    planned = cli("plan", *paths, "--json")
    assert [run["name"] for run in json.loads(planned.out)] == [run.name for plan in plans for run in plan.entries]


def test_another_metrics_output_is_honoured(tmp_path):
    path = write_sweep(tmp_path / "small.yml", **ROW, metrics_output="numbers.pkl")
    plan, outcome = go(path)
    assert len(outcome.ended) == 5
    assert states(plan) == {"done"}
    assert all((plan.folder / run.name / "numbers.pkl").exists() for run in plan.runs)
    assert len(go(path)[1].done_before) == 5


# ------------------------------------------------------------------------ an old result never stands for a new config


def test_runs_of_another_config_move_aside_and_run_again(tmp_path, sweep):
    plan, _ = go(sweep)
    before = frames(plan)
    changed = write_sweep(sweep, **ROW, train_config={"optimizer_args": {"lr": 0.05}})
    plan = plan_of(changed)
    tested = plan.runs[-1].name
    assert {run.name: state_of(plan, run) for run in plan.runs} == dict.fromkeys(before, "stale") | {tested: "done"}
    outcome = submit(plan)
    assert (len(outcome.ended), [run.name for run in outcome.done_before]) == (4, [tested])
    assert states(plan) == {"done"}
    pd.testing.assert_frame_equal(frame_of(plan.folder / tested), before.pop(tested))
    for name, old in before.items():
        (aside,) = (plan.folder / "stale").glob(f"{name}-*")
        pd.testing.assert_frame_equal(frame_of(aside), old)
        assert not frame_of(plan.folder / name).equals(old)
    config = yaml.safe_load((plan.folder / plan.runs[0].name / "config.yml").read_text())
    assert config["train_config"]["optimizer_args"]["lr"] == 0.05


def test_only_the_runs_that_a_change_concerns_run_again(sweep):
    go(sweep)
    write_sweep(sweep, **ROW | {"gaps": gaps([1, 1], [1, 2], [2, 2])})
    _, outcome = go(sweep)
    assert [run.stitch.gap for run in outcome.ended] == [(2, 2), (2, 2)]
    assert len(outcome.done_before) == 5


def test_other_weights_make_results_stale(tmp_path):
    torch.manual_seed(0)
    from stitching.models.building import build
    from stitching.models.spec import ModelSpec

    model = build(
        ModelSpec.parse("local/smallnet", **{key: value for key, value in SMALLNET.items() if key != "model_name"})
    )
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    row = ROW | {"models": [{**SMALLNET, "ckp_path": "weights.pt"}]}
    plan, _ = go(write_sweep(tmp_path / "small.yml", **row))
    assert states(plan) == {"done"}
    torch.save({key: value + 1 for key, value in model.state_dict().items()}, tmp_path / "weights.pt")
    assert states(plan_of(tmp_path / "small.yml")) == {"stale"}


def test_a_damaged_result_is_no_result(sweep):
    plan, _ = go(sweep)
    before = frames(plan)
    first, second, *_ = plan.runs
    result = plan.folder / first.name / "result.pkl"
    result.write_bytes(result.read_bytes()[:100])
    (plan.folder / second.name / "result.pkl").unlink()
    plan, outcome = go(sweep)
    assert [run.name for run in outcome.ended] == [first.name, second.name]
    assert_same(frames(plan), before)


# ------------------------------------------------------------------------ failures


def test_a_run_that_fails_leaves_the_others_alone_and_is_done_by_the_next_submit(tmp_path, monkeypatch):
    plan, _ = go(write_sweep(tmp_path / "quiet" / "small.yml", **ROW))
    undisturbed = frames(plan)
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    plan = plan_of(sweep)
    victim, neighbour, *_ = plan.runs

    def damaging(tasks, *, jobs, on_progress):
        (plan.folder / victim.name / "config.yml").write_text("model: [")
        return in_this_process(tasks, jobs=jobs, on_progress=on_progress)

    outcome = submit(plan, cluster_of(damaging))
    assert outcome.failures.keys() == {victim.name}
    assert "it is damaged" in outcome.failures[victim.name]
    assert state_of(plan, victim) == "failed"
    assert state_of(plan, neighbour) == "done"  # of the same pack
    metadata = yaml.safe_load((plan.folder / victim.name / "metadata.yml").read_text())
    assert metadata["failure"] == outcome.failures[victim.name]
    assert metadata["failure"] in (plan.folder / victim.name / "log.txt").read_text()
    plan, outcome = go(sweep)
    assert ([run.name for run in outcome.ended], outcome.failures) == ([victim.name], {})
    assert "failure" not in yaml.safe_load((plan.folder / victim.name / "metadata.yml").read_text())
    assert_same(frames(plan), undisturbed)


def test_a_run_that_cannot_be_set_up_does_not_take_its_pack_along(tmp_path, monkeypatch):
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    plan = plan_of(sweep)
    victim = plan.runs[1]

    def damaging(tasks, *, jobs, on_progress):
        path = plan.folder / victim.name / "config.yml"
        write_yaml(path, yaml.safe_load(path.read_text().replace("block_input: blocks.", "block_input: blocs.")))
        return in_this_process(tasks, jobs=jobs, on_progress=on_progress)

    outcome = submit(plan, cluster_of(damaging))
    assert outcome.failures.keys() == {victim.name}
    assert "did you mean" in outcome.failures[victim.name]
    assert [state_of(plan, run) for run in plan.runs] == ["done", "failed", "done", "done", "done"]


def test_a_killed_worker_is_on_record_and_other_tasks_finish(cli, sweep, monkeypatch):
    plan = plan_of(sweep)
    victim = plan.runs[0]
    killed = []

    def watched(command, **options):
        process = forked.popen(command, **options)
        if str(plan.folder / victim.name) in command and not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(worker_pool, "subprocess", SimpleNamespace(Popen=watched, PIPE=subprocess.PIPE))
    outcome = cli("submit", sweep, "--cluster", "local", "--pack", "2", "--jobs", "2")
    assert outcome.code == 1
    assert "3 runs done, 0 done before, 2 failed" in outcome.out.replace("\n", " ")
    assert f"{victim.name}: killed by SIGKILL" in outcome.out
    assert f"stitching submit {sweep} --cluster local" in outcome.out
    assert [state_of(plan, run) for run in plan.runs] == ["failed", "failed", "done", "done", "done"]
    assert "killed by SIGKILL" in (plan.folder / victim.name / "log.txt").read_text()
    assert len(go(sweep)[1].ended) == 2
    assert states(plan) == {"done"}


# ------------------------------------------------------------------------ what cannot be done at all


def test_an_unknown_cluster_is_told_before_anything_is_written(sweep):
    with pytest.raises(UserError, match="did you mean 'local'"):
        load_cluster("locl", sweep, {})
    assert not plan_of(sweep).folder.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "taken").write_text("a file")
    plan = plan_of(write_sweep(tmp_path / "small.yml", **ROW, save_dir="taken"))
    with pytest.raises(UserError, match="cannot write to"):
        submit(plan)


def test_no_tasks_need_no_processes():
    assert run_locally([], jobs=1, on_progress=lambda *_: None) == {}


@pytest.mark.parametrize("name", ["metadata.yml", "config.yml"])
def test_what_a_sweep_wrote_is_written_again_where_it_is_damaged(cli, sweep, name):
    plan, _ = go(sweep)
    before = frames(plan)
    folder = plan.folder / plan.runs[0].name
    file = folder / name
    file.write_bytes(file.read_bytes().replace(b"seed: 3", b"seed: 4"))
    if name == "config.yml":
        failures = run_task([folder])
        assert "config.yml: it is damaged" in failures[folder.name]
        assert "`stitching submit` writes it again" in failures[folder.name]
    told = cli("status", sweep).out
    assert "1 failed" in told
    assert "digest" in told
    plan, outcome = go(sweep)
    assert [run.name for run in outcome.ended] == [folder.name]
    assert_same(frames(plan), before)
    assert read_yaml(file)
    kept = list((plan.folder / "stale").glob("*-damaged/result.pkl"))
    assert len(kept) == (name == "metadata.yml"), "nobody knows what that result is of"


@pytest.mark.parametrize("name", ["metadata.yml", "config.yml"])
def test_a_run_that_lost_what_names_it_is_not_trained(sweep, name):
    plan = plan_of(sweep)
    lost, *others = plan.runs

    def losing(tasks, *, jobs, on_progress):
        (plan.folder / lost.name / name).unlink()
        return in_this_process(tasks, jobs=jobs, on_progress=on_progress)

    outcome = submit(plan, cluster_of(losing))
    assert outcome.failures.keys() == {lost.name}
    assert f"there is no file {plan.folder / lost.name / name}" in outcome.failures[lost.name]
    assert {state_of(plan, run) for run in others} == {"done"}
    assert state_of(plan, lost) == "failed"
    assert len(go(sweep)[1].ended) == 1
    assert states(plan) == {"done"}


def test_a_run_that_cannot_be_set_aside_does_not_hold_up_the_others(cli, sweep, without_processes):
    plan, _ = go(sweep)
    first, second, *_ = plan.runs
    for run in (first, second):
        plan.folder_of(run).metadata.write_text("no metadata: [")
    (plan.folder / "stale").mkdir()
    (plan.folder / "stale" / f"{first.name}-damaged").write_text("a file, where its folder would be moved to")
    outcome = cli("submit", sweep, "--cluster", "local")
    assert outcome.code == 1
    assert "1 runs done, 3 done before, 0 failed, 1 not started" in outcome.out
    assert f"{first.name}: cannot move the old result in {plan.folder / first.name}" in outcome.out
    assert state_of(plan, second) == "done"


def test_plans_metadata_and_weights_are_looked_at_once(cli, sweep, monkeypatch, without_processes):
    go(sweep)
    calls: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        really = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: calls.update([name]) or really(*args, **more))

    count(planning, "make_plan")
    count(submitting, "fetch_weights")
    count(RunFolder, "read_metadata")
    assert cli("submit", sweep, "--cluster", "local").code == 0
    assert calls == {"make_plan": 1, "fetch_weights": 1, "read_metadata": 5}
    metadata = plan_of(sweep).folder_of(plan_of(sweep).runs[0]).metadata
    write_yaml(metadata, {**read_yaml(metadata), "state": "failed", "failure": "no", "cause": "error"})
    calls.clear()
    assert "1 runs done" in cli("retry", sweep).out
    assert (calls["make_plan"], calls["fetch_weights"]) == (1, 1)
