"""What a plan tells of its runs: which are done, what made the others new, how long they will take; and what retry does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_sweeps import (
    BLOCKS,
    ROW,
    SMALLNET,
    gaps,
    go,
    in_this_process,
    plan_of,
    states,
    times_started,
    write_sweep,
)
from yaml_files import read_yaml

import stitching.sweeps.gaps_study as planning
from stitching.config.yaml import load_yaml
from stitching.launch.records import new_record, write_record
from stitching.launch.status import sweep_status
from stitching.runs.folder import write_yaml
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import make_plan
from stitching.user_cache import write_cached

AFFINE, BLOCK = "train-small-gap-1,1-adapter-affine", f"train-small-gap-1,2-adapter-{BLOCKS}"


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch):
    """What runs are left is what is asked here; that processes train them is tested elsewhere."""
    monkeypatch.setattr("stitching.launch.schedulers.worker_pool.run_locally", in_this_process)


def statuses(plan) -> dict[str, str]:
    return {run.name: run.state for run in sweep_status(plan.folder, [plan.expected(run) for run in plan.runs])}


def explained(cli, sweep: Path, name: str) -> str:
    outcome = cli("plan", sweep, "--explain", name)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_the_plan_says_what_is_done_new_and_stale_and_what_differs(cli, tmp_path):
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    assert "never submitted" in explained(cli, sweep, AFFINE)
    plan, _ = go(sweep)
    assert "5 runs (5 done)" in cli("plan", sweep).out
    assert explained(cli, sweep, AFFINE).startswith(f"{AFFINE} is done")
    write_sweep(tmp_path / "small.yml", **ROW, train_config={"optimizer_args": {"lr": 0.5}})
    assert "5 runs (1 done, 4 stale)" in cli("plan", sweep).out
    assert "train_config.optimizer_args.lr: 0.01 there, 0.5 here" in explained(cli, sweep, AFFINE)
    write_sweep(tmp_path / "small.yml", **ROW, seeds=[3, 4])
    told = explained(cli, sweep, AFFINE + "-seed-4")
    assert f"the nearest finished run is {AFFINE}; from that" in told
    assert "train_config.seed: 3 there, 4 here" in told
    assert "0.01" not in told
    gone = cli("plan", sweep).out
    assert f"4 runs in {plan.folder} are not in the sweep any more" in gone
    assert AFFINE in gone
    assert "is no longer in the sweep" in explained(cli, sweep, AFFINE)
    rows = json.loads(cli("plan", sweep, "--json").out)
    assert [row["state"] for row in rows] == ["missing"] * 8 + ["done"]  # testing has no seed
    wrong = cli("plan", sweep, "--explain", "train-smal")
    assert wrong.code == 2
    assert "there is no run in the sweep small 'train-smal'" in wrong.err


def test_other_weights_make_a_run_stale_and_are_named(cli, tmp_path):
    import torch

    from stitching.models import building
    from stitching.models.spec import ModelSpec

    def weights(seed: int) -> None:
        model = building.build(
            ModelSpec.parse("local/smallnet", **{k: v for k, v in SMALLNET.items() if k != "model_name"}), seed
        )
        torch.save(model.state_dict(), tmp_path / "w.pt")

    weights(1)
    sweep = write_sweep(tmp_path / "small.yml", **ROW | {"models": [{**SMALLNET, "ckp_path": "w.pt"}]})
    go(sweep)
    assert states(plan_of(sweep)) == {"done"}
    weights(2)
    assert states(plan_of(sweep)) == {"stale"}
    told = explained(cli, sweep, AFFINE)
    assert f"the weights in {tmp_path / 'w.pt'}" in told
    assert "optimizer" not in told


def test_a_damaged_result_is_not_done(tmp_path):
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    plan, _ = go(sweep)
    result = plan.folder / AFFINE / "result.pkl"
    result.write_bytes(result.read_bytes()[:-10])
    assert statuses(plan) == {run.name: "missing" if run.name == AFFINE else "done" for run in plan.runs}
    assert [run.name for run in go(sweep)[1].ended] == [AFFINE]
    assert statuses(plan)[AFFINE] == "done"


def test_the_hours_that_are_left_come_from_finished_runs(cli, tmp_path):
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    assert "No time estimate yet" in cli("plan", sweep).out
    plan, _ = go(sweep)
    assert "What is left" not in cli("plan", sweep).out
    for run in plan.runs:  # as if each had taken a quarter of an hour for its epoch
        path = plan.folder / run.name / "metadata.yml"
        metadata = read_yaml(path)
        assert 0 < metadata["seconds"] < 60
        write_yaml(path, {**metadata, "seconds": 900.0})
    shutil.rmtree(plan.folder / AFFINE)
    shutil.rmtree(plan.folder / BLOCK)
    told = cli("plan", sweep).out
    assert "5 runs (3 done, 2 missing)" in told
    assert "What is left takes about 30 min of one process on cpu, from the median of the finished runs" in told
    write_sweep(tmp_path / "small.yml", **ROW, seeds=[3, 4], train_config={"epochs": 8})
    assert "No time estimate yet" in cli("plan", sweep).out  # nothing of this sweep is done


def test_a_calibration_tries_one_run_of_each_pair_and_keeps_nothing(cli, tmp_path):
    sweep = write_sweep(tmp_path / "small.yml", **ROW)
    before = sorted(tmp_path.rglob("*"))
    told = cli("plan", sweep, "--calibrate").out
    assert "of one process on cpu, from a few steps of one run of each pair" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_only_some_states_and_some_seeds(cli, tmp_path):
    sweep = write_sweep(tmp_path / "small.yml", **ROW | {"stitchers": ["affine"]})
    assert cli("submit", sweep, "--cluster", "local", "--seeds", "1", "2").code == 0
    names = sorted(path.name for path in (tmp_path / "experiments").rglob("train-*"))
    assert [name[-7:] for name in names] == ["-seed-1", "-seed-2"] * 2
    shutil.rmtree(next((tmp_path / "experiments").rglob(names[0])))
    failed = cli("submit", sweep, "--cluster", "local", "--seeds", "1,2", "--only", "failed", "stopped")
    assert "0 runs done, 4 done before" in failed.out
    missing = cli("submit", sweep, "--cluster", "local", "--seeds", "1,2", "--only", "missing")
    assert "1 runs done, 4 done before" in missing.out
    for words, problem in (("done", "not run again"), ("fialed", "did you mean 'failed'")):
        outcome = cli("submit", sweep, "--cluster", "local", "--only", words)
        assert (outcome.code, problem in outcome.err) == (2, True)


def test_a_seed_in_the_file_has_a_name_however_many_there_are(tmp_path):
    one = plan_of(write_sweep(tmp_path / "small.yml", **ROW, seeds=[1])).runs
    two = plan_of(write_sweep(tmp_path / "small.yml", **ROW, seeds=[1, 2])).runs
    assert {run.name for run in one} < {run.name for run in two}


def test_retry_runs_what_failed_and_nothing_else(cli, sweep, monkeypatch):
    plan, _ = go(sweep)
    assert "no failed runs to retry" in cli("retry", sweep).out
    for name, failure in ((AFFINE, "RuntimeError: no"), (BLOCK, "OutOfMemoryError: CUDA out of memory")):
        path = plan.folder / name / "metadata.yml"
        metadata = read_yaml(path)
        write_yaml(path, {**metadata, "state": "failed", "failure": failure})
    assert "no failed runs to retry" in cli("retry", sweep, "--timeout").out
    outcome = cli("retry", sweep, "--out-of-memory")
    assert (outcome.code, "1 runs done, 3 done before" in outcome.out) == (0, True), outcome
    assert times_started(plan.folder / BLOCK) == 2
    assert statuses(plan)[AFFINE] == "failed"
    assert "1 runs done, 4 done before" in cli("retry", sweep).out
    assert states(plan) == {"done"}
    path = plan.folder / BLOCK / "metadata.yml"
    write_yaml(path, {**read_yaml(path), "state": "failed", "failure": "diverged at step 3", "cause": "diverged"})
    outcome = cli("retry", sweep)
    assert "1 runs diverged" in outcome.out
    assert "no failed runs to retry" in outcome.out
    assert "--diverged" not in cli("retry", sweep, "--diverged", "--dry-run").out


def test_retry_says_that_it_cannot_know_where_slurm_cannot_be_asked(cli, sweep, monkeypatch):
    """Runs that Slurm may still hold have not failed, and have not gone well either."""
    plan, _ = go(sweep)
    records = plan.folder / "slurm"
    records.mkdir()
    record = new_record(records, "c", "0" * 12, [[AFFINE], [BLOCK]])
    write_record(records, replace(record, job="7"))
    for name in (AFFINE, BLOCK):
        path = plan.folder / name / "metadata.yml"
        write_yaml(path, {**read_yaml(path), "state": "running"})
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    outcome = cli("retry", sweep)
    assert outcome.code == 1
    assert (
        "the state of 2 runs is unknown, because their scheduler cannot be asked: there is no Slurm here" in outcome.err
    )
    assert "no failed runs" not in outcome.out
    path = plan.folder / BLOCK / "metadata.yml"
    write_yaml(path, {**read_yaml(path), "state": "failed", "cause": "error"})
    outcome = cli("retry", sweep, "--cluster", "local")  # what is known to have failed can be tried here
    assert (outcome.code, "1 runs done" in outcome.out) == (1, True), outcome
    assert "the state of 1 runs is unknown" in outcome.err


def test_several_sweeps_a_folder_of_them_and_a_pattern(cli, tmp_path):
    for name in ("one", "two"):
        write_sweep(tmp_path / f"{name}.yml", **ROW | {"gaps": gaps([1, 1])})
    (tmp_path / "part.yml").write_text("- {blocks_to_drop: [1, 1]}\n")
    for places in ([tmp_path], [tmp_path / "*o*.yml"], [tmp_path / "one.yml", tmp_path / "two.yml"]):
        outcome = cli("plan", *places)
        assert outcome.code == 0, outcome.err
        assert "In all 6 runs of 2 sweeps" in outcome.out


def test_every_mistake_is_told_at_once(cli, tmp_path):
    write_sweep(
        tmp_path / "a.yml",
        **ROW | {"models": [{**SMALLNET, "model_name": "convent"}]},
        grid={"train_config.optimizer": ["Adm", "SDG"]},
    )
    write_sweep(tmp_path / "b.yml", **ROW | {"gaps": gaps([1, 9], [7, 1], [8, 8]), "stitchers": ["afine"]})
    write_sweep(tmp_path / "c.yml", **ROW | {"gaps": gaps([1, 9], [8, 8]), "stitchers": ["afine", "linaer"]})
    write_sweep(tmp_path / "d.yml", **ROW, train_config={"dataset": "mnist"})
    outcome = cli("submit", tmp_path, "--cluster", "nvpgu")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    words = [
        "'convent'",
        "'Adm'",
        "'SDG'",
        "[7, 1]",
        "[1, 9]",
        "[8, 8]",
        "'afine'",
        "'linaer'",
        "data set 'mnist'",
        "'nvpgu'",
    ]
    assert [word for word in words if word not in outcome.err] == []
    assert not (tmp_path / "experiments").exists()


def test_what_is_known_of_networks_changes_no_plan_and_is_found_out_once(tmp_path, monkeypatch):
    sweep = write_sweep(
        tmp_path / "small.yml", **ROW | {"stitchers": ["affine", BLOCKS, "finetune", "linear_no_downsample"]}
    )
    file = tmp_path / "cache" / "networks.json"
    known = PlanCache(file)
    first = make_plan(load_yaml(sweep), cache=known)
    known.save()
    again = make_plan(load_yaml(sweep))
    tried = []
    monkeypatch.setattr(planning, "meta_network", lambda *given: tried.append(given))
    second = make_plan(load_yaml(sweep), cache=PlanCache(file))
    assert tried == []
    assert (
        [run.as_json() for run in first.entries]
        == [run.as_json() for run in again.entries]
        == [run.as_json() for run in second.entries]
    )
    file.write_text(file.read_text()[:100])
    assert PlanCache(file).values == {}
    write_cached(file, json.dumps({"versions": ["of another code"], "values": {"x": 1}}).encode())
    assert PlanCache(file).values == {}


@pytest.mark.parametrize("metrics_output", ["other.pkl", "result-x.pkl"])
def test_results_of_another_name_are_found(cli, tmp_path, metrics_output):
    sweep = write_sweep(tmp_path / "small.yml", **ROW, metrics_output=metrics_output)
    plan, _ = go(sweep)
    assert (plan.folder / AFFINE / metrics_output).exists()
    assert {row["state"] for row in json.loads(cli("status", sweep, "--json").out)} == {"done"}
    assert {row["state"] for row in json.loads(cli("status", plan.folder, "--json").out)} == {"done"}
    assert "epoch 1," in cli("logs", plan.folder / AFFINE, "--follow").out
    assert cli("results", plan.folder).code == 0
